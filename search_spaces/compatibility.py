"""Rules between `search` and `backbone`: heads fit widths, layers exist, operators fit their sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import product
from math import prod
from typing import Any

from search_spaces.distributions import Choice
from search_spaces.variation import OPERATORS, Variation
from surgery.config.backbone import FFN_PROJECTIONS, Backbone
from surgery.config.options import REQUIRED, Cursor
from surgery.config.problems import Problem, Problems
from surgery.config.selector import select_layers, select_span
from surgery.mixers import MIXER_WORDS, MIXERS
from surgery.projections import PROJECTION_OPERATORS
from surgery.projections.base import ProjectionSpec

HEAD_SIZES = ("dim", "num_heads", "num_kv_heads", "head_dim")
# If a size does not fit, the problem names the first of these fields that is searched.
_BLAMED = {
    "num_kv_heads": ("num_kv_heads", "num_heads"),
    "num_heads": ("num_heads", "dim"),
    "head_dim": ("head_dim", "dim", "num_heads"),
}
MAX_COMBINATIONS = 4096

Sizes = dict[str, set[tuple[int, int]]]
Misfit = tuple[tuple[str | int, ...], Any, str]  # path, value, rule that it violates


def check_fit(variation: Variation, cursor: Cursor, *, mixers_known: bool = True) -> None:
    """Add a problem for every value that is invalid in some architecture of the space.

    Args:
        mixers_known: whether the field that decides the mixers could be read.
    """
    _check_depths(variation, cursor)
    if mixers_known:
        _check_mixers(variation, cursor)
    backbones = _check_heads(variation, cursor)
    if backbones is None:
        return
    _check_mixer_sizes(variation, backbones, cursor)
    widths = variation.distribution("backbone.ffn_dim", variation.backbone.ffn_dim).values() or ()
    if len({item.dim for item in backbones}) * len(widths) > MAX_COMBINATIONS:
        rule = f"more than {MAX_COMBINATIONS:,} combinations of dim and ffn_dim can't be checked"
        cursor.at("backbone.ffn_dim").problem(None, rule, "use a choice or a larger step")
        return
    for operator in OPERATORS:
        used = _possible_projections(variation, operator)
        if used:
            _check_operator(variation, operator, _projection_sizes(variation, backbones, used), cursor)


def _check_depths(variation: Variation, cursor: Cursor) -> None:
    """Check that layouts are no longer than the stack and that layer selectors match at every depth."""
    depths = variation.distribution("backbone.num_layers", variation.backbone.num_layers).values() or ()
    for path, layout in _paths_and_values(variation, "layout"):
        if len(layout) > min(depths):
            rule = f"has {len(layout)} letters for {min(depths)} layers"
            cursor.at(*path).problem(layout, rule, "shorten it; a shorter one is tiled")
    for operator in OPERATORS:
        field, hint = f"{operator}.layers", "such as all, '0-3,-1' or '1::2'"
        _check_selectors(variation, field, select_layers, depths, hint, cursor)
    _check_selectors(variation, "loop.span", select_span, depths, "such as all, '2-5' or '1--2'", cursor)


def _check_selectors(
    variation: Variation,
    field: str,
    select: Callable[[str, int], object],
    depths: Sequence[int],
    hint: str,
    cursor: Cursor,
) -> None:
    """Check that the selectors of a field select layers at every depth."""
    for path, selector in _paths_and_values(variation, field):
        for depth in depths if selector != "all" else ():
            try:
                select(selector, depth)
            except ValueError as error:
                cursor.at(*path).problem(selector, str(error), hint)
                break


def _check_mixers(variation: Variation, cursor: Cursor) -> None:
    """Add problems for options of mixers that no architecture of the space uses."""
    letters = variation.letters()
    for letter, mixer in MIXERS.items():
        for name in mixer.options if letter not in letters else ():
            field = f"mixers.{MIXER_WORDS[letter]}.{name}"
            if field in variation.search:
                here = ", ".join(MIXER_WORDS[item] for item in letters)
                rule = f"no architecture here has {mixer.name}"
                cursor.at(field).problem(None, rule, f"mixers of this space: {here}")


def _check_mixer_sizes(variation: Variation, backbones: Sequence[Backbone], cursor: Cursor) -> None:
    """Add a problem for each mixer that does not fit one of the backbones."""
    for letter in variation.letters():
        cases = ((item, options) for item in backbones for options in _mixer_settings(variation, letter))
        for backbone, options in cases:
            broken = MIXERS[letter].broken_rule(backbone, options)
            if broken is not None:
                field = f"mixers.{MIXER_WORDS[letter]}.{broken[0]}"
                cursor.at(field).problem(options[broken[0]], broken[1], "or leave this mixer out")
                break


def _check_heads(variation: Variation, cursor: Cursor) -> list[Backbone] | None:
    """Return a backbone for every combination of dim and head sizes; None after adding problems."""
    sizes = [size for size in HEAD_SIZES if f"backbone.{size}" in variation.search]
    domains = [variation.search[f"backbone.{size}"].values() or () for size in sizes]
    total = prod(map(len, domains))
    if total > MAX_COMBINATIONS:
        rule = f"{total:,} combinations of dim and heads, at most {MAX_COMBINATIONS:,} can be checked"
        cursor.problem(", ".join(sizes), rule, "use a choice or a larger step")
        return None
    backbones: list[Backbone] = []
    broken: dict[str, tuple[Problem, dict[str, int]]] = {}
    misfits = 0
    for values in product(*domains):
        problems = Problems()
        chosen = dict(zip(sizes, values, strict=True))
        backbone = variation.backbone_with(chosen, problems)
        if backbone is not None:
            backbones.append(backbone)
            continue
        misfits += 1
        for problem in problems.entries:
            name = problem.field.removeprefix("backbone.")
            at = next((size for size in _BLAMED.get(name, ()) if size in sizes), sizes[0])
            broken.setdefault(at, (problem, chosen))
    for at, (problem, chosen) in broken.items():
        name = problem.field.removeprefix("backbone.")
        example = ", ".join(f"{key} {value}" for key, value in chosen.items())
        rule = f"{name} {problem.value} {problem.rule} (at {example}; {misfits} of {total} combinations fail)"
        cursor.at(f"backbone.{at}").problem(chosen[at], rule, problem.hint)
    return None if broken else backbones


def _check_operator(variation: Variation, operator: str, sizes: Sizes, cursor: Cursor) -> None:
    """Check each value of each option against all projection sizes that it may be used with."""
    spec = PROJECTION_OPERATORS[operator]
    defaults: dict[str, Any] = {}
    for option, schema in spec.options.items():
        field = f"{operator}.{option}"
        if field not in variation.search and schema.default is REQUIRED:
            return  # reported when the section is read
        values = variation.distribution(field, schema.default).values()
        defaults[option] = values[0] if values else schema.default
    for option in spec.options:
        bad: list[Misfit] = []
        for path, value in _paths_and_values(variation, f"{operator}.{option}"):
            text = _misfits(spec, option, {**defaults, option: value}, sizes)
            if text:
                bad.append((path, value, text))
        if bad:
            _report(
                variation, f"{operator}.{option}", bad, _fitting(operator, option, defaults, sizes), cursor
            )


def _misfits(spec: ProjectionSpec, option: str, options: dict[str, Any], sizes: Sizes) -> str:
    """Return the projections whose sizes violate a rule of this option, with an example each; else empty."""
    examples: list[str] = []
    rule = ""
    for name, pairs in sizes.items():
        for d_in, d_out in sorted(pairs):
            broken = spec.broken_rule(d_in, d_out, options)
            if broken is not None and broken[0] == option:
                examples.append(f"{name} ({d_in} -> {d_out})")
                rule = rule or broken[1]
                break
    return f"does not fit {', '.join(examples)}: {rule}" if examples else ""


def _report(variation: Variation, field: str, bad: Sequence[Misfit], hint: str, cursor: Cursor) -> None:
    if isinstance(variation.search[field], Choice):
        for path, value, text in bad:
            cursor.at(*path).problem(value, text, hint)
        return
    values = ", ".join(str(value) for _, value, _ in bad[:8]) + (", ..." if len(bad) > 8 else "")
    path, first, text = bad[0]
    cursor.at(*path).problem(values, f"{first} {text}", f"{hint}; write them as a choice")


def _fitting(operator: str, option: str, defaults: dict[str, Any], sizes: Sizes) -> str:
    spec = PROJECTION_OPERATORS[operator]
    pairs = set().union(*sizes.values())
    good = [
        value
        for value in range(1, 65)
        if not any(spec.broken_rule(d_in, d_out, {**defaults, option: value}) for d_in, d_out in pairs)
    ]
    return f"values that fit: {', '.join(map(str, good))}"


def _possible_projections(variation: Variation, operator: str) -> set[str]:
    sets = variation.distribution(f"{operator}.projections", ()).values() or ()
    return {name for names in sets for name in names}


def _projection_sizes(variation: Variation, backbones: Sequence[Backbone], used: set[str]) -> Sizes:
    """Return every (inputs, outputs) that a projection may have in the space."""
    sizes: Sizes = {}
    for letter in variation.letters():
        for backbone in backbones:
            for options in _mixer_settings(variation, letter):
                for name, pair in MIXERS[letter].projections(backbone, options).items():
                    if name in used:
                        sizes.setdefault(name, set()).add(pair)
    widths = variation.distribution("backbone.ffn_dim", variation.backbone.ffn_dim).values() or ()
    one_each = {backbone.dim: backbone for backbone in backbones}.values()
    for name in FFN_PROJECTIONS:
        if name in used:
            pairs = {replace(item, ffn_dim=width).sizes(name) for item in one_each for width in widths}
            sizes.setdefault(name, set()).update(pairs)
    return sizes


def _mixer_settings(variation: Variation, letter: str) -> Iterator[dict[str, Any]]:
    """Yield the options of a mixer for every combination of its searched values."""
    domains = {}
    for name, schema in MIXERS[letter].options.items():
        distribution = variation.distribution(f"mixers.{MIXER_WORDS[letter]}.{name}", schema.default)
        domains[name] = distribution.values() or (schema.default,)
    for values in product(*domains.values()):
        yield dict(zip(domains, values, strict=True))


def _paths_and_values(variation: Variation, field: str) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Yield (path under `search`, value) for each value of a field that is not continuous."""
    distribution = variation.search.get(field)
    if isinstance(distribution, Choice) and len(distribution.options) > 1:
        for index, value in enumerate(distribution.options):
            yield (field, "choice", index), value
    elif distribution is not None:
        for value in distribution.values() or ():
            yield (field,), value
