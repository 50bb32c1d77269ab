"""A search space: the searched fields, objectives, constraints, and the proxy's budget."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple

from search_spaces import constraints as limits
from search_spaces.baselines import build_baseline
from search_spaces.constraints import Constraint, Violation
from search_spaces.distributions import Distribution
from search_spaces.extremes import cost_range, feasible_share
from search_spaces.fields import fields
from search_spaces.latency import LatencySettings
from search_spaces.library import LibrarySettings
from search_spaces.objectives import Objective
from search_spaces.params_of import params_of
from search_spaces.pretrained import ModelSection
from search_spaces.proxy import Proxy
from search_spaces.replacements import Replacements
from search_spaces.text import Data
from search_spaces.trial import Trial
from search_spaces.variation import OPERATORS, Variation, rule_settings
from surgery.architecture import Architecture
from surgery.architecture.block_times import BlockTimes
from surgery.architecture.costs import cost_in_units
from surgery.architecture.memory import describe_training, machine_memory, training_bytes
from surgery.architecture.metrics import AHEAD
from surgery.config.backbone import DERIVED_SIZES, Backbone
from surgery.config.quantities import format_bytes
from surgery.projections import PROJECTION_OPERATORS

_MANY = 10**12  # settings, above which only their order of magnitude is shown


@dataclass(frozen=True)
class SpaceSize:
    """The number of distinct settings; each field listed in `continuous` counts as one value."""

    count: int
    continuous: tuple[str, ...]

    def __str__(self) -> str:
        settings = f"{self.count:,} settings" if self.count < _MANY else f"{self.count:.1e} settings"
        return settings if not self.continuous else f"{settings} × continuous {', '.join(self.continuous)}"


class Change(NamedTuple):
    """A field that differs between two spaces, and its values as flow YAML."""

    field: str
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.field}: {self.before} -> {self.after}"


@dataclass(frozen=True, eq=False)
class SearchSpace:
    """A search space, checked on load: all its architectures can be built, and some meet the constraints.

    Attributes:
        variation: the backbone and the searched fields.
        text: the file as written.
        source: the file's name, for messages.
        model, library: the pretrained model, and how its replacements are made and measured; None for
            architectures that are trained from scratch.
        latency: how blocks are timed, where a latency is an objective or constraint.
        times: of the blocks, once they are measured (`with_times`).
    """

    name: str
    variation: Variation | Replacements
    constraints: tuple[Constraint, ...]
    objectives: tuple[Objective, ...]
    baseline_names: tuple[str, ...]
    proxy: Proxy
    data: Data
    text: str = ""
    source: str = ""
    model: ModelSection | None = None
    library: LibrarySettings | None = None
    latency: LatencySettings = field(default_factory=LatencySettings)
    times: BlockTimes | None = None

    @cached_property
    def timed_metrics(self) -> tuple[str, ...]:
        """The latencies that are objectives or constraints, such as `decode_ms@4096`, each once."""
        named = [item.name for item in self.objectives if item.metric.timed]
        named += [item.name for item in self.constraints if item.metric.timed]
        return tuple(dict.fromkeys(named))

    @property
    def costs_known(self) -> bool:
        """Return whether every cost is known: there are no latencies, or blocks are timed."""
        return not self.timed_metrics or self.times is not None

    def with_times(self, times: BlockTimes) -> SearchSpace:
        """Return the space with measured times of blocks; limits that are shares of latencies get values."""
        model = self.model.architecture if self.model is not None else None
        constraints = tuple(item.resolve(model, times) for item in self.constraints)
        return replace(self, constraints=constraints, times=times)

    def cost(self, architecture: Architecture, name: str) -> float:
        """Return a cost of an architecture in its unit: exact, or a latency by the measured times.

        Raises:
            UserError: a latency of blocks that are not timed.
        """
        return cost_in_units(architecture, name, self.times)

    @property
    def replacements(self) -> Replacements | None:
        """The options of the pretrained model's parts; None if there is no such model."""
        return self.variation if isinstance(self.variation, Replacements) else None

    @property
    def done_word(self) -> Literal["trained", "measured"]:
        """The state of a trial that ended well: designs of a pretrained model are not trained."""
        return "trained" if self.replacements is None else "measured"

    @property
    def backbone(self) -> Backbone:
        """The sizes written in the backbone section; baselines use them."""
        return self.variation.backbone

    @property
    def search(self) -> Mapping[str, Distribution]:
        """The searched fields and their distributions."""
        return self.variation.search

    @cached_property
    def baselines(self) -> dict[str, Architecture]:
        """The designs that every study trains first, in order. They need not meet the constraints."""
        return {name: build_baseline(name, self.backbone) for name in self.baseline_names}

    def sample(self, trial: Trial) -> Architecture:
        """Return the architecture of a trial. Only parameters that have an effect are suggested."""
        return self.variation.sample(trial)

    def sample_random(self, seed: int) -> Architecture:
        """Return a random architecture, deterministic in `seed`. Constraints are ignored."""
        return self.variation.random(seed)

    def params_of(self, architecture: Architecture) -> dict[str, Any] | None:
        """Return trial parameters that produce this architecture; None if it is not in the space."""
        if isinstance(self.variation, Replacements):
            return self.variation.params_of(architecture)
        return params_of(self.variation, architecture)

    def constraint_values(self, architecture: Architecture) -> tuple[float, ...]:
        """Return one number per constraint, in order: at most 0 if it holds, else the relative excess.

        Raises:
            UserError: one is on a latency of blocks that are not timed.
        """
        return limits.values(self.constraints, architecture, self.times)

    def violations(self, architecture: Architecture) -> list[Violation]:
        """Return the constraints that the architecture violates; empty if it is feasible.

        Those on latencies are left out before blocks are timed.
        """
        known = [item for item in self.constraints if item.metric.analytic or self.times is not None]
        return limits.violations(known, architecture, self.times)

    def size(self) -> SpaceSize:
        """Return the number of distinct settings."""
        return SpaceSize(self.variation.combinations(), self.variation.continuous())

    def cost_range(self, metric: str, samples: int = 500, seed: int = 0) -> tuple[int, int, int]:
        """Return (lowest, median, highest) of an analytic metric such as `decode_flops@1024`.

        Constraints are ignored.

        Raises:
            ValueError: `metric` is unknown or only measured by training.
        """
        return cost_range(self.variation, metric, samples, seed)

    def feasible_share(self, samples: int = 500, seed: int = 0) -> float:
        """Return the fraction of random architectures that meet every constraint."""
        return feasible_share(self.variation, self.constraints, samples, seed)

    def warnings(self) -> list[str]:
        """Return warnings about valid settings that have no effect, or probably not the intended one."""
        twins, early = _twin_objectives(self.objectives), _early_rungs(self.proxy)
        if self.library is not None or isinstance(self.variation, Replacements):
            assert self.library is not None
            return [*twins, *_longer_contexts(self.objectives, self.constraints, self.library)]
        return [*_idle_options(self.variation), *twins, *early, *_too_large(self.baselines, self.proxy)]

    def to_yaml(self) -> str:
        """Return the file as written, including comments."""
        return self.text

    def to_dict(self) -> dict[str, Any]:
        """Return all settings that affect results, in canonical form: without the name and comments."""
        if self.model is not None and self.library is not None:
            return {
                "model": {"weights": self.model.weights, "architecture": self.model.architecture.canonical()},
                "search": {name: item.plain() for name, item in self.search.items()},
                "constraints": sorted(item.exact for item in self.constraints),
                "objectives": {item.name: item.direction for item in self.objectives},
                "library": self.library.to_dict(),
                "data": self.data.to_dict(),
                **self._latency_section(),
            }
        backbone = self.backbone.to_dict()
        if (
            isinstance(self.variation, Variation) and self.variation.searched_sizes
        ):  # omitted sizes are derived from searched ones
            section = self.variation.section
            backbone = {
                key: value for key, value in backbone.items() if key in section or key not in DERIVED_SIZES
            }
        return {
            "backbone": backbone,
            "search": {name: self.search[name].plain() for name in fields() if name in self.search},
            "constraints": sorted(item.exact for item in self.constraints),
            "objectives": {item.name: item.direction for item in self.objectives},
            "baselines": list(self.baseline_names),
            "proxy": self.proxy.to_dict(),
            "data": self.data.to_dict(),
            **self._latency_section(),
        }

    def _latency_section(self) -> dict[str, Any]:
        """Return the settings of latencies as a section, if the space names any."""
        return {"latency": self.latency.to_dict()} if self.timed_metrics else {}

    @cached_property
    def digest(self) -> str:
        """A hash of 10 hex digits; equal if two spaces define the same study."""
        text = json.dumps(self.to_dict())  # keys unsorted: the order of objectives matters
        return hashlib.sha256(text.encode()).hexdigest()[:10]

    def diff(self, other: SearchSpace) -> list[Change]:
        """Return the fields that differ from here to there; empty if the digests are equal."""
        here, there = dict(_leaves(self.to_dict())), dict(_leaves(other.to_dict()))
        return [
            Change(name, here.get(name, "(none)"), there.get(name, "(none)"))
            for name in dict.fromkeys([*here, *there])
            if here.get(name) != there.get(name)
        ]


def _leaves(data: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (field, value as flow YAML). Objectives stay together, since their order matters."""
    for section, content in data.items():
        if isinstance(content, dict) and section != "objectives":
            yield from ((f"{section}.{key}", _flow(value)) for key, value in content.items())
        else:
            yield section, _flow(content)


def _flow(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_flow, value)) + "]"
    return json.dumps(value) if isinstance(value, bool) or value is None else str(value)


def _idle_options(variation: Variation) -> Iterator[str]:
    for operator in OPERATORS:
        if f"{operator}.projections" not in variation.search:
            continue
        spec = PROJECTION_OPERATORS[operator]
        idle = [spec.idle_options(setting) for setting in rule_settings(variation, operator)]
        for option in spec.conditional:
            reasons = [reason for each in idle if (reason := each.get(option))]
            if not reasons or f"{operator}.{option}" not in variation.search:
                continue
            where = "anywhere in this space" if len(reasons) == len(idle) else "in part of this space"
            yield f"{operator}.{option} is idle {where} and not sampled there: {reasons[0]}"


def _longer_contexts(
    objectives: tuple[Objective, ...], constraints: tuple[Constraint, ...], library: LibrarySettings
) -> Iterator[str]:
    contexts = [item.context or 0 for item in objectives] + [item.context or 0 for item in constraints]
    longest = max(contexts)
    if longest > 4 * library.seq_len:
        yield (
            f"costs are counted at {longest:,} tokens, designs are measured on sequences of "
            f"{library.seq_len:,} (library.seq_len): what windows and states lose beyond that does not show"
        )


def _twin_objectives(objectives: tuple[Objective, ...]) -> Iterator[str]:
    names = {item.name for item in objectives}
    if {"val_loss", "val_bpb"} <= names:
        yield "objectives val_loss and val_bpb rank identically: one is a constant multiple of the other"
    ends = [name for name in ("val_loss", "val_bpb", *AHEAD) if name in names]
    if len(ends) > 1 and not names.isdisjoint(AHEAD):
        yield f"objectives {' and '.join(ends)} measure the same quality, at the end of the run or beyond it"


def _too_large(baselines: Mapping[str, Architecture], proxy: Proxy) -> Iterator[str]:
    memory = machine_memory()
    for name, architecture in baselines.items():
        if training_bytes(architecture, proxy.optimizer) > memory:
            needed = describe_training(architecture, proxy.optimizer)
            yield f"baseline {name} {needed}, more than this machine's memory of {format_bytes(memory)}"


def _early_rungs(proxy: Proxy) -> Iterator[str]:
    early = [f"{rung:g}" for rung in proxy.rungs if rung <= proxy.warmup_share]
    if early:
        yield (
            f"at {' and '.join(early)} of a run (proxy.rungs) the learning rate is still warming up (over "
            f"{proxy.warmup_share:.2g} of it): losses rank architectures poorly there, yet trials are "
            "stopped by them"
        )
