"""Replacements in a pretrained model: the options of each layer's mixer and feed-forward network."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import Any

from search_spaces.distributions import Choice, Distribution
from search_spaces.trial import RandomTrial, Trial
from surgery.architecture import Architecture
from surgery.architecture.block_times import BlockTimes
from surgery.architecture.costs import cost_in_steps
from surgery.architecture.layers import Layer
from surgery.architecture.rules import Rule
from surgery.config.backbone import FFN_PROJECTIONS, Backbone
from surgery.config.selector import write_layers

PARTS = ("mixer", "ffn")
KEEP = "keep"  # label of the model's own part, always the first option


@dataclass(frozen=True)
class Replacement:
    """One option of a part.

    Attributes:
        part: `mixer` or `ffn`.
        label: short name, unique among the options of a part.
        letter: the mixer; None: the model's own.
        options: of that mixer, as given.
        ffn_dim: hidden width of the feed-forward network, 0: it is left out; None: the model's.
        rules: operators of the part's projections, without layers.
    """

    part: str
    label: str
    letter: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    ffn_dim: int | None = None
    rules: tuple[Rule, ...] = ()


@dataclass(frozen=True)
class Part:
    """A layer's mixer or feed-forward network, and what it may become; the first option is to keep it."""

    layer: int
    part: str
    options: tuple[Replacement, ...]

    @property
    def name(self) -> str:
        """Name of the part, and of the trial parameter that chooses its replacement."""
        return f"layer.{self.layer}.{self.part}"

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels of the options, in order."""
        return tuple(option.label for option in self.options)

    def option(self, label: str) -> Replacement:
        """Return the option of a label."""
        return self.options[self.labels.index(label)]


@dataclass(frozen=True, eq=False)
class Replacements:
    """The searched part of a space over a pretrained model.

    Attributes:
        model: the model's own architecture.
        parts: the parts that may be replaced, bottom to top; others stay as they are.
    """

    model: Architecture
    parts: tuple[Part, ...]

    @property
    def backbone(self) -> Backbone:
        """The sizes of the model."""
        return self.model.backbone

    @cached_property
    def search(self) -> Mapping[str, Distribution]:
        """A choice of labels for every part."""
        return {part.name: Choice(part.labels) for part in self.parts}

    @property
    def searched_sizes(self) -> tuple[str, ...]:
        """No size of the backbone is searched."""
        return ()

    def placements(self) -> tuple[str, ...]:
        """No mixer is placed by a rule: every layer is chosen by itself."""
        return ()

    def sample(self, trial: Trial) -> Architecture:
        """Return the architecture of a trial's choices."""
        return self.architecture({name: item.sample(trial, name) for name, item in self.search.items()})

    def random(self, source: int | random.Random) -> Architecture:
        """Return a random architecture, deterministic in the seed."""
        return self.sample(RandomTrial(source))

    def combinations(self) -> int:
        """Count the designs."""
        return prod(len(part.options) for part in self.parts)

    def continuous(self) -> tuple[str, ...]:
        """Every choice is discrete."""
        return ()

    def architecture(self, choice: Mapping[str, str]) -> Architecture:
        """Return the model with these replacements: part's name -> label; parts not named are kept.

        Raises:
            UserError: a replacement does not fit the model.
        """
        return Architecture.from_dict(self._data(choice))

    def uniform(self, part: str, label: str) -> Architecture:
        """Return the model with one replacement in every layer that offers it."""
        return self.architecture(
            {item.name: label for item in self.parts if item.part == part and label in item.labels}
        )

    def choice(self, architecture: Architecture) -> dict[str, str] | None:
        """Return the label of every part that gives this architecture; None if it is not in the space."""
        if len(architecture.layers) != len(self.model.layers):
            return None
        result = {}
        for part in self.parts:
            wanted = _part_key(architecture.layers[part.layer], part.part)
            label = self._by_key[part.name].get(wanted)
            if label is None:
                return None
            result[part.name] = label
        return result if self.architecture(result) == architecture else None

    def params_of(self, architecture: Architecture) -> dict[str, Any] | None:
        """Return trial parameters that produce this architecture; None if it is not in the space."""
        choice = self.choice(architecture)
        if choice is None:
            return None
        return {part.name: choice[part.name] for part in self.parts if len(part.options) > 1}

    def differences(self, metric: str, times: BlockTimes | None = None) -> list[list[int]]:
        """Return, for each part, what each option adds to a cost of the model, in steps; keeping adds 0.

        Costs add up over parts: the cost of a design is the model's plus the differences of its options.

        Args:
            metric: a cost, such as `cache_bytes@8192`.
            times: of the blocks, for a latency.
        """
        base = cost_in_steps(self.model, metric, times)
        known: dict[tuple[int, str, str], int] = {}  # equal layers of the model have equal differences
        result = []
        for part in self.parts:
            row = []
            for option in part.options:
                key = (id(self.model.layers[part.layer]), part.part, option.label)
                if key not in known:
                    known[key] = (
                        cost_in_steps(self.architecture({part.name: option.label}), metric, times) - base
                    )
                row.append(known[key])
            result.append(row)
        return result

    def cost_range(self, metric: str, times: BlockTimes | None = None) -> tuple[int, int]:
        """Return the lowest and the highest cost of a design in steps, exactly."""
        base, rows = cost_in_steps(self.model, metric, times), self.differences(metric, times)
        return base + sum(map(min, rows)), base + sum(map(max, rows))

    @cached_property
    def _by_key(self) -> dict[str, dict[Any, str]]:
        """Labels by what a part resolves to, for each part."""
        layers = {
            (part, label): self.uniform(part, label).layers
            for part, label in dict.fromkeys(
                (item.part, label) for item in self.parts for label in item.labels
            )
        }
        return {
            item.name: {
                _part_key(layers[item.part, label][item.layer], item.part): label
                for label in reversed(item.labels)
            }
            for item in self.parts
        }

    def _data(self, choice: Mapping[str, str]) -> dict[str, Any]:
        """Return the architecture as plain data."""
        own = self.model.to_dict()
        depth = len(self.model.layers)
        chosen = [(part, part.option(choice[part.name])) for part in self.parts if part.name in choice]
        layout = list(self.model.layout)
        settings: dict[str, dict[int, Mapping[str, Any]]] = {}  # letter -> layer -> options
        for index, letter in enumerate(layout):
            settings.setdefault(letter, {})[index] = self.model.layers[index].mixer_options
        widths: dict[int, list[int]] = {}
        rules: dict[Rule, list[int]] = {}
        for part, option in chosen:
            if option.letter is not None:
                del settings[layout[part.layer]][part.layer]
                layout[part.layer] = option.letter
                settings.setdefault(option.letter, {})[part.layer] = option.options
            if option.ffn_dim is not None:
                widths.setdefault(option.ffn_dim, []).append(part.layer)
            for rule in option.rules:
                rules.setdefault(rule, []).append(part.layer)
        data = {**own, "layout": "".join(layout)}
        data["mixers"] = {
            letter: value for letter, by_layer in settings.items() if (value := _by_layers(by_layer, depth))
        }
        if widths:
            data["ffn"] = [
                {"layers": write_layers(tuple(sorted(layers)), None), "dim": width}
                for width, layers in sorted(widths.items())
            ]
        data["projections"] = [
            {**rule.to_dict(), "layers": write_layers(tuple(sorted(layers)), None)}
            for rule, layers in rules.items()
        ] + own["projections"]
        return data


def _by_layers(by_layer: Mapping[int, Mapping[str, Any]], depth: int) -> Any:
    """Return a letter's options as a mapping, or as rules if its layers differ."""
    groups: list[tuple[Mapping[str, Any], list[int]]] = []
    for layer, options in sorted(by_layer.items()):
        for known, layers in groups:
            if dict(known) == dict(options):
                layers.append(layer)
                break
        else:
            groups.append((options, [layer]))
    if len(groups) <= 1:
        return dict(groups[0][0]) if groups else {}
    return [{"layers": write_layers(tuple(layers), None), **options} for options, layers in groups]


def _part_key(layer: Layer, part: str) -> Any:
    """Return what a part of a layer is, comparable between architectures."""
    names = [name for name in layer.projections if (name in FFN_PROJECTIONS) == (part == "ffn")]
    operators = tuple(
        (name, item.name, item.d_in, item.d_out, tuple(sorted(item.options.items())))
        for name in names
        for item in (layer.projections[name],)
    )
    mixer = (layer.mixer, tuple(sorted(layer.mixer_options.items()))) if part == "mixer" else ()
    return mixer, operators


def paired(parts: tuple[Part, ...]) -> Iterator[tuple[Part, Replacement]]:
    """Yield every part with each of its options but keeping it."""
    return ((part, option) for part in parts for option in part.options[1:])
