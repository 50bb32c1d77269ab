"""The searched part of a space: a backbone and one distribution per field. Samples architectures."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import Any

from search_spaces.distributions import Choice, Distribution, Ratio, placement_matters
from search_spaces.fields import BACKBONE_SIZES
from search_spaces.trial import RandomTrial, Trial
from surgery.architecture import Architecture
from surgery.architecture.layout import layout_from_ratio, tile
from surgery.architecture.rules import Rule
from surgery.config.backbone import FFN_PROJECTIONS, Backbone
from surgery.config.options import Cursor
from surgery.config.problems import Problems
from surgery.mixers import MIXER_WORDS, MIXERS
from surgery.projections import PROJECTION_OPERATORS
from surgery.projections.base import ProjectionSpec

OPERATORS = tuple(name for name, spec in PROJECTION_OPERATORS.items() if spec.options)


@dataclass(frozen=True)
class Variation:
    """The searched part of a space.

    Attributes:
        backbone: the sizes written in the backbone section.
        section: the section as written; omitted sizes follow from searched ones (head_dim = dim / heads).
        search: field -> distribution; a fixed field has a distribution with one value.
    """

    backbone: Backbone
    section: Mapping[str, Any]
    search: Mapping[str, Distribution]

    def sample(self, trial: Trial) -> Architecture:
        """Return the architecture of the trial's parameters. Fields without an effect are not sampled."""
        backbone = self._sample_backbone(trial)
        layout = self._sample_layout(trial, backbone.num_layers)
        mixers = self._sample_mixers(trial, set(tile(layout, backbone.num_layers)))
        loops = self._draw(trial, "loop.count", 1)
        rules = tuple(rule for name in OPERATORS if (rule := self._sample_rule(trial, name)))
        architecture = Architecture(backbone, layout, mixers, rules, loops)
        windows = self._sample_windows(trial, architecture)
        if any(windows):
            architecture = replace(architecture, loop_windows=windows)
        if loops > 1:
            span = self._draw(trial, "loop.span", "all")
            inject = self._draw(trial, "loop.inject", False)
            rank = self._draw(trial, "loop.delta_rank", 0)
            architecture = replace(
                architecture,
                loop_span=None if span == "all" else span,
                loop_inject=inject,
                loop_delta_rank=rank,
            )
        return _without_idle_rules(architecture)

    def random(self, source: int | random.Random) -> Architecture:
        """Return a random architecture, deterministic in the seed."""
        return self.sample(RandomTrial(source))

    def distribution(self, field: str, default: Any) -> Distribution:
        """Return the distribution of `field`, or `default` as its only value if it is not searched."""
        return self.search.get(field) or Choice((default,))

    def letters(self) -> tuple[str, ...]:
        """Return the mixers that an architecture may use."""
        if "layout" in self.search:
            layouts = self.search["layout"].values() or ()
            return tuple(letter for letter in MIXERS if any(letter in layout for layout in layouts))
        ratio = self.search.get("mixers.ratio")
        return ratio.letters if isinstance(ratio, Ratio) else ("F",)

    def placements(self) -> tuple[str, ...]:
        """Return the possible placements of the first mixer."""
        return tuple(self.distribution("mixers.placement", "interleave").values() or ())

    @property
    def searched_sizes(self) -> tuple[str, ...]:
        """The backbone sizes that are searched."""
        return tuple(size for size in BACKBONE_SIZES if f"backbone.{size}" in self.search)

    def backbone_with(self, sizes: Mapping[str, int], problems: Problems) -> Backbone | None:
        """Return the backbone with other sizes; None after adding problems if they are incompatible."""
        return Backbone.read({**self.section, **sizes}, Cursor(problems, path=("backbone",)))

    def combinations(self) -> int:
        """Count the distinct settings of architectures; a continuous field counts as one value."""
        sizes = prod(len(self.search[f"backbone.{size}"].values() or ()) for size in self.searched_sizes)
        loops = self._loop_combinations()
        rules = prod(_rule_combinations(self, name) for name in OPERATORS)
        return sizes * self._layout_combinations() * loops * rules

    def continuous(self) -> tuple[str, ...]:
        """Return the searched fields with a continuous distribution."""
        return tuple(name for name, item in self.search.items() if item.values() is None)

    def _draw(self, trial: Trial, field: str, default: Any) -> Any:
        distribution = self.search.get(field)
        return default if distribution is None else distribution.sample(trial, field)

    @cached_property
    def _backbones(self) -> dict[tuple[int, ...], Backbone]:
        return {}

    def _sample_backbone(self, trial: Trial) -> Backbone:
        sizes = self.searched_sizes
        if not sizes:
            return self.backbone
        values = tuple(self.search[f"backbone.{size}"].sample(trial, f"backbone.{size}") for size in sizes)
        if values not in self._backbones:
            problems = Problems()
            backbone = self.backbone_with(dict(zip(sizes, values, strict=True)), problems)
            assert backbone is not None, f"sizes are checked on load: {problems.entries}"
            self._backbones[values] = backbone
        return self._backbones[values]

    def _sample_layout(self, trial: Trial, depth: int) -> str:
        ratio = self.search.get("mixers.ratio")
        if ratio is None:
            return str(self._draw(trial, "layout", "F"))
        shares = ratio.sample(trial, "mixers.ratio")
        placement = "interleave"
        if placement_matters(shares):
            placement = self._draw(trial, "mixers.placement", placement)
        return layout_from_ratio(dict(shares), placement, depth)

    def _sample_mixers(self, trial: Trial, letters: set[str]) -> dict[str, dict[str, Any]]:
        options: dict[str, dict[str, Any]] = {}
        for letter in (letter for letter in MIXERS if letter in letters):
            for name in MIXERS[letter].options:
                field = f"mixers.{MIXER_WORDS[letter]}.{name}"
                if field in self.search:
                    options.setdefault(letter, {})[name] = self.search[field].sample(trial, field)
        return options

    def _sample_windows(self, trial: Trial, architecture: Architecture) -> tuple[int | None, ...]:
        """Return the attention window of each loop iteration; empty if not looped or no mixer is windowed."""
        count = architecture.loop_count
        if count == 1 or not any(MIXERS[letter].windowed for letter in set(architecture.layout)):
            return ()
        return stretched(self._draw(trial, "loop.windows", ()), count)

    def _sample_rule(self, trial: Trial, operator: str) -> Rule | None:
        names = self._draw(trial, f"{operator}.projections", ())
        if not names:
            return None
        layers = self._draw(trial, f"{operator}.layers", "all")
        spec = PROJECTION_OPERATORS[operator]
        options: dict[str, Any] = {}
        for option in _drawing_order(spec):
            field = f"{operator}.{option}"
            default = spec.options[option].default
            if option in spec.conditional and option in spec.idle_options(options):
                options[option] = self.distribution(field, default).nearest(default)
            else:
                options[option] = self._draw(trial, field, default)
        options = {option: options[option] for option in spec.options}
        return Rule(names, operator, options, None if layers == "all" else layers)

    def _loop_combinations(self) -> int:
        """Count loop settings. Windows count for every looped stack, even without a windowed mixer."""
        counts = self.distribution("loop.count", 1).values() or ()
        schedules = self.distribution("loop.windows", ()).values() or ()
        windowed = any(MIXERS[letter].windowed for letter in self.letters())
        spans = len(self.distribution("loop.span", "all").values() or ())
        variants = spans * len(self.distribution("loop.inject", False).values() or ())
        variants *= len(self.distribution("loop.delta_rank", 0).values() or ())
        return sum(
            (len({stretched(item, count) for item in schedules}) if windowed else 1) * variants
            if count > 1
            else 1
            for count in counts
        )

    def _layout_combinations(self) -> int:
        ratio = self.search.get("mixers.ratio")
        if ratio is None:
            layouts = self.distribution("layout", "F").values() or ()
            return sum(self._mixer_combinations(layout) for layout in layouts)
        total = 0
        for shares in ratio.values() or ():
            letters = "".join(letter for letter, share in shares if share)
            placements = len(self.placements()) if placement_matters(shares) else 1
            total += placements * self._mixer_combinations(letters)
        return total

    def _mixer_combinations(self, letters: str) -> int:
        domains = [
            self.search[field].values() or (None,)
            for letter in MIXERS
            if letter in letters
            for name in MIXERS[letter].options
            if (field := f"mixers.{MIXER_WORDS[letter]}.{name}") in self.search
        ]
        return prod(len(values) for values in domains)


def stretched(schedule: tuple[int | str, ...], count: int) -> tuple[int | None, ...]:
    """Spread a window schedule evenly over `count` loop iterations; the last entry is the last iteration's.

    (128, 256, 512, "full") over two iterations is (256, None). Empty if no window is limited.
    """
    size = len(schedule)
    if not any(isinstance(entry, int) for entry in schedule):
        return ()
    entries = (schedule[-(-(loop + 1) * size // count) - 1] for loop in range(count))
    return tuple(entry if isinstance(entry, int) else None for entry in entries)


def _drawing_order(spec: ProjectionSpec) -> list[str]:
    """Return the options with conditional ones last, since their relevance depends on the others."""
    return sorted(spec.options, key=lambda option: option in spec.conditional)


def _without_idle_rules(architecture: Architecture) -> Architecture:
    """Drop rules that match no projection, such as q k v if no mixer has them."""
    rules = architecture.rules
    if not rules or (len(rules) == 1 and set(rules[0].match) & set(FFN_PROJECTIONS)):
        return architecture
    counts = architecture.rule_matches()
    if all(counts):
        return architecture
    kept = tuple(rule for rule, count in zip(rules, counts, strict=True) if count)
    return replace(architecture, rules=kept)


def rule_settings(variation: Variation, operator: str) -> Iterator[dict[str, Any]]:
    """Return an iterator over all settings of an operator's unconditional, finite options."""
    spec = PROJECTION_OPERATORS[operator]
    settings: list[dict[str, Any]] = [{}]
    for option in _drawing_order(spec):
        if option in spec.conditional:
            continue
        default = spec.options[option].default
        values = variation.distribution(f"{operator}.{option}", default).values() or (default,)
        settings = [{**setting, option: value} for setting in settings for value in values]
    return iter(settings)


def _rule_combinations(variation: Variation, operator: str) -> int:
    spec = PROJECTION_OPERATORS[operator]
    sets = variation.distribution(f"{operator}.projections", ()).values() or ()
    used = sum(1 for names in sets if names)
    if not used:
        return 1
    layers = len(variation.distribution(f"{operator}.layers", "all").values() or ())
    conditional = {
        option: len(variation.distribution(f"{operator}.{option}", None).values() or (None,))
        for option in spec.conditional
    }
    settings = sum(
        prod(count for option, count in conditional.items() if option not in idle)
        for idle in map(spec.idle_options, rule_settings(variation, operator))
    )
    return (len(sets) - used) + used * layers * settings
