"""The projections of a model that have latents: their names, and where they are."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from surgery.config.backbone import PROJECTIONS
from surgery.config.problems import Problem, UserError

if TYPE_CHECKING:
    from torch import nn

    from surgery.architecture import Architecture

OPERATOR = "hdpl"
_MODULE = re.compile(rf"(?:.*\.)?layers\.(\d+)\.\w+\.({'|'.join(PROJECTIONS)})")


@dataclass(frozen=True, order=True)
class Latent:
    """Name of the latents of one projection.

    Attributes:
        layer: index of the physical layer; in a looped model it is passed several times.
        projection: one of `q k v o gate up down`.
    """

    layer: int
    projection: str

    def __str__(self) -> str:
        return f"layers.{self.layer}.{self.projection}"

    @classmethod
    def parse(cls, text: str) -> Latent | None:
        """Return the name that `str` wrote; None if the text is none."""
        match = re.fullmatch(rf"layers\.(\d{{1,9}})\.({'|'.join(PROJECTIONS)})", text)
        return None if match is None else cls(int(match[1]), match[2])


def in_order(latent: Latent) -> tuple[int, int]:
    """Return a sorting key: by layer, and within one in the order in which projections are computed."""
    return latent.layer, PROJECTIONS.index(latent.projection)


def latent_projections(model: nn.Module) -> dict[Latent, Any]:
    """Return the HDPL projections of a model by name, from bottom to top.

    Args:
        model: a `HybridLM`, or any module around one: a causal LM of transformers, also if it runs the code
            next to its weights, or a wrapper of PEFT or torch.compile.

    Raises:
        UserError: it has none, or its code is of a version that cannot steer them.
    """
    result: dict[Latent, Any] = {}
    for path, module in model.named_modules():
        match = _MODULE.fullmatch(path)
        if match is not None and all(hasattr(module, part) for part in ("mu", "logvar", "decoder", "blocks")):
            result[Latent(int(match[1]), match[2])] = module
    name = str(getattr(model, "name_or_path", "") or type(model).__name__)
    if not result:
        problem = Problem("model", name, "has no HDPL projections, and so no latents", _HOW)
        raise UserError("there are no latents", [problem])
    if not all("steer" in module._modules for module in result.values()):
        rule = "runs code that was written before latents could be steered"
        hint = "import surgery before it is loaded, or write the model anew"
        raise UserError("can't use its latents", [Problem("model", name, rule, hint)])
    return dict(sorted(result.items(), key=lambda item: in_order(item[0])))


def ranks_of(projections: Mapping[Latent, Any]) -> dict[Latent, int]:
    """Return the number of latents of each of a built model's projections."""
    return {name: int(module.mu.out_features) for name, module in projections.items()}


def latent_ranks(architecture: Architecture) -> dict[Latent, int]:
    """Return the number of latents of each HDPL projection, from bottom to top; builds nothing."""
    ranks = {
        Latent(index, name): int(item.options["rank"])
        for index, layer in enumerate(architecture.layers)
        for name, item in layer.projections.items()
        if item.name == OPERATOR
    }
    return dict(sorted(ranks.items(), key=lambda item: in_order(item[0])))


_HOW = "train or apply an architecture with `operator: hdpl` in its projections"
