"""The columns of the interface table: a small model of each kind, and what it is compared with."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from surgery.apply.execute import execute
from surgery.apply.plan import plan
from surgery.apply.source import read_source
from surgery.hf.configuration import NasConfig
from surgery.hf.modeling import NasForCausalLM
from tests.models import architecture, build
from tests.surgery.apply.conftest import SIZES, random_model

HDPL = [{"match": ["q", "k", "v", "o", "gate", "up", "down"], "operator": "hdpl", "blocks": 2, "rank": 6,
         "kl": "mean", "kl_weight": 0.1}]  # fmt: skip
BACKBONE = {"vocab_size": 61, "dim": 32, "ffn_dim": 48, "head_dim": 8, "num_layers": 1}
BUILT: dict[str, dict[str, Any]] = {
    "HDPL": {"layout": "F", "projections": HDPL},
    "F": {"layout": "F", "mixers": {"F": {"gate": True}}, "qk_norm": True},
    "W": {"layout": "W", "mixers": {"W": {"window": 4}}},
    "G": {"layout": "G"},
    "D": {"layout": "D"},
    "S": {"layout": "S", "mixers": {"S": {"top_k": 3, "index_dim": 8}}},
    "K": {"layout": "K", "num_kv_heads": 4},
    "B": {"layout": "B", "mixers": {"B": {"block": 2, "blocks": 3, "window": 2}}},
    "R": {"layout": "R"},
    "M": {"layout": "M", "mixers": {"M": {"state_size": 8}}},
    "H": {"layout": "H"},
    "loop": {"layout": "F", "loops": 2},
}
COLUMNS = ("identity", *BUILT)
TOKENS = torch.randint(3, 61, (2, 7), generator=torch.Generator().manual_seed(3))
SPECIAL = {"bos_token_id": 1, "eos_token_id": None, "pad_token_id": 0}


@dataclass
class Case:
    """A cell of the table: `ours` is compared with `theirs`, transformers' own Llama with the same weights.

    The other columns have no such model: there `theirs` is None, and `ours` without its cache, or by a loop
    written by hand, is what is compared with.
    """

    column: str
    ours: NasForCausalLM
    theirs: Any = None

    def fresh(self) -> Case:
        """Copies that a row may change."""
        return Case(self.column, copy.deepcopy(self.ours), copy.deepcopy(self.theirs))

    @property
    def both(self) -> list[Any]:
        return [self.ours] if self.theirs is None else [self.ours, self.theirs]

    def same(
        self,
        run: Callable[[Any], Any],
        reference: Callable[[Any], Any] | None = None,
        **tolerance: float,
    ) -> None:
        """`run` gives the same with our model as `reference` (by default `run`) with the compared one."""
        expected = plain((reference or run)(self.ours if self.theirs is None else self.theirs))
        close(plain(run(self.ours)), expected, **tolerance)


def close(result: Any, expected: Any, **tolerance: float) -> None:
    torch.testing.assert_close(result, expected, **({"atol": 1e-4, "rtol": 1e-4} | tolerance), equal_nan=True)


def plain(value: Any) -> Any:
    """Tensors, numbers and lists only; caches left out, since ours holds other things."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items() if key not in ("cache", "past_key_values")}
    if isinstance(value, list | tuple):
        return [
            plain(item) for item in value if isinstance(item, Tensor | list | tuple | Mapping | float | int)
        ]
    return value


def case(column: str) -> Case:
    """A fresh case of a column."""
    return _built(column).fresh()


@cache
def _built(column: str) -> Case:
    torch.manual_seed(0)
    if column == "identity":
        theirs = random_model("llama", num_hidden_layers=2)
        with TemporaryDirectory() as folder:
            theirs.save_pretrained(folder)
            source = read_source(Path(folder))
            drawn = plan(source, {})
            inner, _ = execute(source, drawn)
        result = Case(column, _wrapped(inner), theirs)
    else:
        options = {"mixers": None, "projections": None, **BACKBONE, **BUILT[column]}
        result = Case(column, _wrapped(build(architecture(options.pop("layout"), **options))))
    for model in result.both:
        for name, value in SPECIAL.items():
            setattr(model.generation_config, name, value)
            setattr(model.config, name, value)
    assert SIZES["vocab_size"] == BACKBONE["vocab_size"]
    return result


def _wrapped(inner: Any) -> NasForCausalLM:
    return NasForCausalLM.wrap(inner, NasConfig(inner.architecture.to_dict(), **SPECIAL)).eval()


def linears(model: nn.Module) -> dict[str, nn.Linear]:
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
