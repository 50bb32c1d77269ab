"""The proxy: a short training run with the same settings for every architecture."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from search_spaces.probes.base import Probe
from search_spaces.probes.recall import Recall
from search_spaces.probes.registry import PROBES
from search_spaces.probes.state import State
from surgery.config.options import Cursor, Option
from surgery.config.quantities import parse_count

_COUNTS = {
    "tokens": "tokens of one training run",
    "seq_len": "tokens per sequence",
    "batch_tokens": "tokens per optimizer step, a multiple of seq_len",
    "eval_tokens": "held-out tokens that the loss is measured on",
}
OPTIMIZERS = ("adamw", "muon")
LR_RULES = ("roles", "width", "uniform")
_SETTINGS = {
    "seconds": Option(
        float, low=0.1, high=1e7, help="training time per run, in seconds; tokens is then an upper bound"
    ),
    "optimizer": Option(
        str,
        choices=OPTIMIZERS,
        help="adamw, or muon: Muon for the matrices of layers, AdamW for all else",
    ),
    "lr": Option(float, low=1e-8, high=1.0, help="peak learning rate"),
    "lr_rule": Option(
        str,
        choices=LR_RULES,
        help="roles: lr for matrices, 6 lr for embeddings, norms and gates; width: like roles, with a higher "
        "rate for HDPL's blocks and decoders, and that of low_rank, the fewer inputs they have; "
        "uniform: lr for all",
    ),
    "warmup": Option(  # or a count
        float,
        low=0.0,
        high=0.9,
        help="warm-up as a fraction of the steps, at most 0.9, or in tokens such as 1M",
    ),
    "final_lr": Option(float, low=0.0, high=1.0, help="final learning rate as a fraction of the peak"),
    "weight_decay": Option(float, low=0.0, high=10.0, help="decoupled weight decay, on matrices only"),
    "seeds": Option(int, low=1, high=20, help="runs per architecture; their means are compared"),
}


@dataclass(frozen=True)
class Proxy:
    """Budget and settings of one proxy training run.

    Attributes:
        tokens, seq_len, batch_tokens, eval_tokens: in tokens.
        seconds: training time per run, not counting evaluation; `tokens` is then an upper bound. None: every
            run trains on all tokens.
        rungs: fractions of the budget at which trials are compared, increasing; the last is 1.
        optimizer: `adamw` or `muon` (`studies.training.optimizer.make_optimizer`).
        lr: peak learning rate.
        lr_rule: learning rates by parameter: `roles`, `width` or `uniform`
            (`studies.training.optimizer.make_optimizer`).
        warmup: fraction of the steps if below 1, else tokens, which an audit's longer runs keep.
        final_lr: end of the cosine schedule as a fraction of the peak; 1: a constant rate.
        seeds: runs per architecture.
        recall, state: the probes of these names, if they are objectives.
    """

    tokens: int = 20_000_000
    seq_len: int = 512
    batch_tokens: int = 32_768
    seconds: float | None = None
    rungs: tuple[float, ...] = (0.2, 0.5, 1.0)  # after the warm-up: losses rank poorly before
    optimizer: str = "adamw"
    lr: float = 1e-3
    lr_rule: str = "roles"
    warmup: float = 0.1
    final_lr: float = 0.1
    weight_decay: float = 0.1
    eval_tokens: int = 131_072
    seeds: int = 1
    recall: Recall | None = None
    state: State | None = None

    @property
    def probes(self) -> dict[str, Probe]:
        """The probes that are measured, by name."""
        probes = {name: getattr(self, name) for name in PROBES}
        return {name: probe for name, probe in probes.items() if probe is not None}

    @property
    def steps(self) -> int:
        """Optimizer steps, an upper bound under a time budget. A remainder of `tokens` is not trained on."""
        return self.tokens // self.batch_tokens

    @property
    def rung_steps(self) -> tuple[int, ...]:
        """The step after which each rung is reached; the last is `steps`."""
        return tuple(round(rung * self.steps) for rung in self.rungs)

    @property
    def warmup_share(self) -> float:
        """The warm-up as a fraction of the maximum number of steps."""
        return self.warmup if self.warmup < 1 else self.warmup / self.tokens

    def to_dict(self) -> dict[str, Any]:
        """Return all settings except unused probes and an unset time budget, which have no effect."""
        values = {**asdict(self), "rungs": list(self.rungs)}
        unused = {name for name in (*PROBES, "seconds") if values[name] is None}
        return {name: value for name, value in values.items() if name not in unused}


def read_proxy(data: object, vocab_size: int | None, probes: Collection[str], cursor: Cursor) -> Proxy | None:
    """Read the `proxy` section, filling in defaults; None after adding problems.

    Args:
        data: the section.
        vocab_size: of the backbone; None if unknown.
        probes: names of the probes that are objectives.
        cursor: position of the section, for problems.
    """
    before = len(cursor.problems.entries)
    given = cursor.mapping(data, (*_COUNTS, "rungs", *_SETTINGS, *PROBES))
    values: dict[str, Any] = {}
    for name, kind in PROBES.items():
        if name in probes:
            values[name] = kind.read(given.get(name), vocab_size, cursor.at(name))
        elif name in given:
            rule = f"has no effect: {name} is not an objective"
            cursor.at(name).problem(None, rule, f"add {name}: max to the objectives")
    for name, value in given.items():
        if name in PROBES:
            continue
        try:
            values[name] = _read(name, value)
        except ValueError as error:
            text = _COUNTS.get(name) or (_SETTINGS[name].help if name in _SETTINGS else "")
            cursor.at(name).problem(value, str(error), text)
    proxy = Proxy(**values)
    if len(cursor.problems.entries) == before:
        _check(proxy, given, cursor)
    return proxy if len(cursor.problems.entries) == before else None


def check_ahead(proxy: Proxy, start: float, cursor: Cursor) -> None:
    """Check that `val_loss@Kx` has a rung at `start`, the fraction of the run it extrapolates from."""
    if start not in proxy.rungs:
        rule = f"extrapolates the curve from {start:g} of the run, where there is no rung"
        rungs = ", ".join(f"{item:g}" for item in sorted({*proxy.rungs, start}))
        cursor.problem(None, rule, f"write rungs: [{rungs}] in proxy")


def _read(name: str, value: object) -> Any:
    if name == "rungs":
        return _read_rungs(value)
    if name in _SETTINGS and (name != "warmup" or _is_fraction(value)):
        return _SETTINGS[name].read(value)
    count = parse_count(value)
    if count < 1:
        raise ValueError("must be at least 1")
    return count


def _is_fraction(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value < 1


def _read_rungs(value: object) -> tuple[float, ...]:
    if not isinstance(value, list) or not value:
        raise ValueError("must be a list of fractions such as [0.1, 0.3, 1.0]")
    if any(
        isinstance(item, bool) or not isinstance(item, int | float) or not 0 < item <= 1 for item in value
    ):
        raise ValueError("must be fractions of the budget, above 0 and at most 1")
    if any(later <= sooner for sooner, later in pairwise(value)):
        raise ValueError(f"must increase: [{', '.join(f'{item:g}' for item in sorted(set(value)))}]")
    if value[-1] != 1:
        raise ValueError("must end with 1.0, the whole budget")
    return tuple(float(item) for item in value)


def _check(proxy: Proxy, given: dict[str, Any], cursor: Cursor) -> None:
    """Check the rules between fields."""
    seq_len, batch, tokens = proxy.seq_len, proxy.batch_tokens, proxy.tokens
    if batch % seq_len:
        below = batch // seq_len * seq_len
        hint = f"write {' or '.join(str(size) for size in (below, below + seq_len) if size)}"
        cursor.at("batch_tokens").problem(batch, f"must be a multiple of seq_len ({seq_len})", hint)
    if tokens < batch:
        shown = given.get("tokens", tokens)
        cursor.at("tokens").problem(shown, f"is less than one step of {batch} tokens", "train longer")
    elif len(set(proxy.rung_steps)) < len(proxy.rungs) or proxy.rung_steps[0] < 1:
        cursor.at("rungs").problem(
            list(proxy.rungs),
            f"a run has only {proxy.steps} steps, so the rungs fall on steps {list(proxy.rung_steps)}",
            "use fewer rungs, smaller batches or more tokens",
        )
    if proxy.warmup >= 1 and not batch <= proxy.warmup <= 0.9 * tokens:
        rule = f"must be at least one step ({batch} tokens) and at most 0.9 of the run ({tokens})"
        cursor.at("warmup").problem(given["warmup"], rule, _SETTINGS["warmup"].help)
    if proxy.eval_tokens < seq_len:
        cursor.at("eval_tokens").problem(proxy.eval_tokens, f"is less than one sequence ({seq_len})")
