"""The inverse of sampling: trial parameters of an architecture, so that samplers learn from baselines too."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

from search_spaces.distributions import Choice, Ratio, layouts_of
from search_spaces.trial import ReplayTrial
from search_spaces.variation import OPERATORS, Variation, stretched
from surgery.architecture import Architecture
from surgery.config.backbone import PROJECTIONS
from surgery.config.selector import select_layers, select_span
from surgery.mixers import MIXER_WORDS, MIXERS
from surgery.projections import PROJECTION_OPERATORS

Params = dict[str, Any]


def params_of(variation: Variation, architecture: Architecture) -> Params | None:
    """Return parameters that sample to this architecture (compared by hash); None if it is not in the space.

    Candidates are guessed field by field and verified by sampling them again.
    """
    parts = [
        _sizes(variation, architecture),
        _layouts(variation, architecture),
        _mixer_options(variation, architecture),
        _single(variation, "loop.count", architecture.loop_count),
        _windows(variation, architecture),
        *_spans(variation, architecture),
        *(_rules(variation, architecture, operator) for operator in OPERATORS),
    ]
    for guess in product(*parts):
        params = {key: value for part in guess for key, value in part.items()}
        trial = ReplayTrial(params)
        if variation.sample(trial).hash == architecture.hash:
            return trial.params
    return None


def _single(variation: Variation, field: str, value: Any) -> list[Params]:
    """Return the parameters of `field` for `value`: one guess, or none if impossible."""
    if field not in variation.search:
        return [{}]
    params = variation.search[field].parameters(field, value)
    return [] if params is None else [params]


def _sizes(variation: Variation, architecture: Architecture) -> list[Params]:
    params: Params = {}
    for size in variation.searched_sizes:
        guess = _single(variation, f"backbone.{size}", getattr(architecture.backbone, size))
        if not guess:
            return []
        params |= guess[0]
    return [params]


def _layouts(variation: Variation, architecture: Architecture) -> list[Params]:
    depth = architecture.backbone.num_layers
    ratio = variation.search.get("mixers.ratio")
    if isinstance(ratio, Ratio):
        drawn = layouts_of(ratio, variation.placements(), depth).get(architecture.layout)
        if drawn is None:
            return []
        shares, placement = drawn
        params = ratio.parameters("mixers.ratio", shares) or {}
        if placement is not None and "mixers.placement" in variation.search:
            params |= variation.search["mixers.placement"].parameters("mixers.placement", placement) or {}
        return [params]
    layouts = variation.distribution("layout", "F").values() or ()
    same = [layout for layout in layouts if (layout * depth)[:depth] == architecture.layout]
    return [guess for layout in same for guess in _single(variation, "layout", layout)]


def _mixer_options(variation: Variation, architecture: Architecture) -> list[Params]:
    params: Params = {}
    for layer in architecture.layers:
        for name in MIXERS[layer.mixer].options:
            field = f"mixers.{MIXER_WORDS[layer.mixer]}.{name}"
            guess = _single(variation, field, layer.mixer_options[name])
            if not guess:
                return []
            params |= guess[0]
    return [params]


def _windows(variation: Variation, architecture: Architecture) -> list[Params]:
    """Return schedules that give the architecture's windows at its loop count."""
    wanted = architecture.loop_windows if any(architecture.loop_windows) else ()
    schedules = variation.distribution("loop.windows", ()).values() or ()
    count = architecture.loop_count
    same = [item for item in schedules if stretched(item, count) == wanted]
    guesses = [guess for item in same for guess in _single(variation, "loop.windows", item)]
    return guesses or [{}]  # sampled only where it has an effect; verified by sampling again


def _spans(variation: Variation, architecture: Architecture) -> Iterator[list[Params]]:
    """Yield guesses of the span and of what later passes see and change; sampled only for loops."""
    if architecture.loop_count == 1:
        return
    depth = architecture.backbone.num_layers
    spans = variation.distribution("loop.span", "all").values() or ()
    same = [
        item for item in spans if select_span(None if item == "all" else item, depth) == architecture.looped
    ]
    yield [guess for item in same for guess in _single(variation, "loop.span", item)]
    yield _single(variation, "loop.inject", architecture.loop_inject)
    yield _single(variation, "loop.delta_rank", architecture.loop_delta_rank)


def _rules(variation: Variation, architecture: Architecture, operator: str) -> Iterator[Params]:
    """Yield guesses of an operator's projections, layers and options."""
    replaced = {
        (index, name): item.options
        for index, layer in enumerate(architecture.layers)
        for name, item in layer.projections.items()
        if item.name == operator
    }
    names = {name for _, name in replaced}
    used = tuple(name for name in PROJECTIONS if name in names)
    projections = _projections(variation, f"{operator}.projections", used)
    if not replaced:
        yield from projections
        return
    options = next(iter(replaced.values()))
    fixed: Params = {}
    for option in PROJECTION_OPERATORS[operator].options:
        for guess in _single(variation, f"{operator}.{option}", options[option]):
            fixed |= guess  # an option without a guess may be idle; verified by sampling again
    at = {index for index, _ in replaced}
    depth = architecture.backbone.num_layers
    for selector in variation.distribution(f"{operator}.layers", "all").values() or ():
        if not at <= set(select_layers(None if selector == "all" else selector, depth)):
            continue  # it may select more layers: those whose mixer has none of the projections
        for layers in _single(variation, f"{operator}.layers", selector):
            for guess in projections:
                yield {**fixed, **guess, **layers}


def _projections(variation: Variation, field: str, used: tuple[str, ...]) -> list[Params]:
    """Return guesses for the projections in use; a list may name more that no mixer of the layout has."""
    distribution = variation.search.get(field)
    if not isinstance(distribution, Choice):
        return _single(variation, field, used)
    lists = sorted((item for item in distribution.options if set(used) <= set(item)), key=len)
    return [guess for item in lists for guess in _single(variation, field, item)]
