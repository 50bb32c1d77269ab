"""A space as plain data for display: searched fields, size, and the costs of its architectures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search_spaces.catalog import list_presets, load_space, named_model
from search_spaces.fields import fields
from search_spaces.replacements import Replacements
from search_spaces.space import SearchSpace
from surgery.architecture import Architecture
from surgery.architecture.costs import cost
from surgery.architecture.metrics import DEFAULT_CONTEXT, METRICS
from surgery.config.problems import UserError
from surgery.config.selector import write_layers

SAMPLES = 500
_SECTION = "search:"


@dataclass(frozen=True)
class Listed:
    """An entry of `nas space list`.

    `problems` counts the problems of an invalid file. A space over a pretrained model can't be checked
    without reading that model, and counts as valid; `model` is the one that it names, and `needs_model` says
    that it names none.
    """

    name: str
    kind: str  # preset or file
    summary: str
    space: SearchSpace | None
    problems: int = 0
    needs_model: bool = False
    model: str | None = None


def list_spaces(folder: Path) -> list[Listed]:
    """Return the presets, then the YAML files of a folder that look like spaces."""
    spaces = [_listed(item.name, "preset", item.summary, item.path) for item in list_presets()]
    for path in sorted((*folder.glob("*.yaml"), *folder.glob("*.yml"))):
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError):
            continue
        if any(line.startswith(_SECTION) for line in lines):
            spaces.append(_listed(path.name, "file", about("\n".join(lines)), path.resolve()))
    return spaces


def _listed(name: str, kind: str, summary: str, path: Path) -> Listed:
    try:
        return Listed(name, kind, summary, load_space(path))
    except UserError as error:
        only = [problem.field for problem in error.problems] == ["model"]
        model = named_model(path)
        problems = 0 if only else len(error.problems)
        return Listed(name, kind, summary, None, problems, only and model is None, model if only else None)


def about(text: str) -> str:
    """Return the file's first line if it is a comment, else an empty string."""
    first = text.partition("\n")[0]
    return first.lstrip("# ").strip() if first.startswith("#") else ""


def cost_names(space: SearchSpace) -> tuple[str, ...]:
    """Return the analytic metrics that a space names, plus params, a decode cost and a cache size."""
    named = [item.name for item in space.objectives if item.metric.analytic]
    named += [item.name for item in space.constraints if item.metric.analytic]
    for base in ("params", "decode_flops", "cache_bytes"):
        if not any(name.partition("@")[0] == base for name in named):
            context = next((item.context for item in space.objectives if item.context), DEFAULT_CONTEXT)
            named.append(f"{base}@{context}" if METRICS[base].takes_context else base)
    order = list(METRICS)
    return tuple(sorted(dict.fromkeys(named), key=lambda name: order.index(name.partition("@")[0])))


def costs_of(space: SearchSpace, architecture: Architecture) -> dict[str, int]:
    """Return the space's analytic metrics of an architecture, by name."""
    return {name: cost(architecture, name) for name in cost_names(space)}


def summarise(space: SearchSpace, samples: int = SAMPLES) -> dict[str, Any]:
    """Return everything that `nas space show` prints, as JSON values."""
    size = space.size()
    return {
        "name": space.name,
        "summary": about(space.text),
        "source": space.source,
        "backbone": space.backbone.to_dict(),
        "model": space.model.name if space.model is not None else None,
        **(_replacements(space.replacements) if space.replacements is not None else _fields(space)),
        "size": {"settings": size.count, "continuous": list(size.continuous)},
        "costs": {
            name: dict(zip(("min", "median", "max"), space.cost_range(name, samples), strict=True))
            for name in cost_names(space)
        },
        "constraints": [item.exact for item in space.constraints],
        "feasible_share": space.feasible_share(samples) if space.constraints else 1.0,
        "objectives": {item.name: item.direction for item in space.objectives},
        "baselines": {name: describe_architecture(space, item) for name, item in space.baselines.items()},
        "proxy": {**space.proxy.to_dict(), "steps": space.proxy.steps} if space.library is None else None,
        "library": space.library.to_dict() if space.library is not None else None,
        "latency": space.latency.to_dict() if space.timed_metrics else None,
        "data": space.data.to_dict(),
        "warnings": space.warnings(),
        "digest": space.digest,
    }


def _fields(space: SearchSpace) -> dict[str, Any]:
    known = fields()
    varying = {name: item for name, item in space.search.items() if not item.fixed}
    return {
        "search": {
            name: {"distribution": item.plain(), "help": known[name].help} for name, item in varying.items()
        },
        "fixed": {name: item.plain() for name, item in space.search.items() if item.fixed},
    }


def _replacements(replacements: Replacements) -> dict[str, Any]:
    """Return the options of mixers and feed-forward networks, with the layers that offer them."""
    layers: dict[tuple[str, tuple[str, ...]], list[int]] = {}
    for part in replacements.parts:
        layers.setdefault((part.part, part.labels), []).append(part.layer)
    depth = len(replacements.model.layers)
    return {
        "search": {
            f"layers.{kind}": {
                "distribution": {"choice": list(labels)},
                "help": f"in layers {write_layers(tuple(where), depth) or 'all'}",
            }
            for (kind, labels), where in layers.items()
        },
        "fixed": {},
    }


def describe_architecture(space: SearchSpace, architecture: Architecture) -> dict[str, Any]:
    """Return an architecture's summary line, hash, costs and violated constraints."""
    return {
        "line": architecture.line,
        "hash": architecture.hash,
        "costs": costs_of(space, architecture),
        "feasible": not space.violations(architecture),
        "violations": [str(item) for item in space.violations(architecture)],
    }


def draw(space: SearchSpace, count: int, seed: int, *, feasible: bool = True) -> list[Architecture]:
    """Return distinct random architectures, by default only feasible ones, deterministic in `seed`.

    There are fewer than `count` if the space hardly has more.
    """
    drawn: dict[str, Architecture] = {}
    for attempt in range(200 * count):
        if len(drawn) == count:
            break
        architecture = space.sample_random(_mix(seed, attempt))
        if feasible and space.violations(architecture):
            continue
        drawn.setdefault(architecture.hash, architecture)
    return list(drawn.values())


def _mix(seed: int, attempt: int) -> int:
    """Return a distinct seed for every attempt, so that seeds 0 and 1 share no architecture."""
    return seed * 1_000_003 + attempt
