"""Settings of both probes, `proxy.recall` and `proxy.state`: read only where the metric is an objective."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from search_spaces import parse_space
from search_spaces.probes import recall, state
from surgery.config.options import Option

from .test_errors import GOOD, line, problem_of

PROXY = "proxy: {tokens: 100k, seq_len: 64, batch_tokens: 1024"


@dataclass(frozen=True)
class Probe:
    """A probe's section, and one field of it with a value that is not the default."""

    name: str
    settings: type
    options: Mapping[str, Option]
    changed: tuple[str, int | str]

    @property
    def space(self) -> str:
        """GOOD with the probe's metric as an objective."""
        return line(9, f"objectives: {{val_loss: min, {self.name}: max, params: min}}")

    @property
    def defaults(self) -> dict[str, Any]:
        return {name: option.default for name, option in self.options.items()}

    @property
    def other(self) -> str:
        return f"{{{self.changed[0]}: {self.changed[1]}}}"

    def space_with(self, text: str, space: str | None = None) -> str:
        """The space (or another) with these settings of the probe."""
        space = self.space if space is None else space
        assert PROXY in space
        return space.replace(PROXY, f"{PROXY}, {self.name}: {text}")


RECALL = Probe("recall", recall.Recall, recall.OPTIONS, ("pairs", 4))
STATE = Probe("state", state.State, state.OPTIONS, ("length", 48))
PROBES = {probe.name: probe for probe in (RECALL, STATE)}
both = pytest.mark.parametrize("probe", PROBES.values(), ids=PROBES)


@both
def test_defaults_fit_together(probe: Probe) -> None:
    space = parse_space(probe.space)
    assert space.proxy.probes == {probe.name: probe.settings(**probe.defaults)}
    for name in PROBES:
        assert getattr(space.proxy, name) == space.proxy.probes.get(name)
    assert [str(item) for item in space.objectives] == ["val_loss min", f"{probe.name} max", "params min"]


@both
def test_it_may_be_the_only_quality(probe: Probe) -> None:
    space = parse_space(line(9, f"objectives: {{{probe.name}: max, params: min}}"))
    assert getattr(space.proxy, probe.name) is not None


@pytest.mark.parametrize(
    ("text", "field", "rule", "hint"),
    [
        ("{pair: 4}", "recall.pair", "not a field", '"pairs"'),
        ("{pairs: many}", "recall.pairs", "whole number", "remember"),
        ("{pairs: 0}", "recall.pairs", "at least 1", ""),
        ("{steps: 0}", "recall.steps", "at least 1", ""),
        ("{batch: 1.5}", "recall.batch", "whole number", ""),
        ("{lr: 7}", "recall.lr", "at most 1", "learning rate"),
        ("{seq_len: 20}", "recall.pairs", "don't fit seq_len 20", "at most 6 pairs, or seq_len 24"),
        ("{distance: 25}", "recall.distance", "does not fit seq_len 48", "at most 24, or seq_len 49"),
        ("{distance: -1}", "recall.distance", "at least 0", "filler"),
        ("{pairs: 9}", "recall.pairs", "half of the alphabet is 8", "alphabet: 18"),
        ("{alphabet: 17}", "recall.alphabet", "must be even", "16 or 18"),
        ("{alphabet: 512}", "recall.alphabet", "vocab_size (512)", "at most 510"),
        ("8", "recall", "mapping", ""),
        ("{lenght: 4}", "state.lenght", "not a field", '"length"'),
        ("{group: s6}", "state.group", "one of parity, s3, s4, a5, s5", "tokens"),
        ("{group: 3}", "state.group", "one of parity", ""),
        ("{length: 1}", "state.length", "at least 2", "word"),
        ("{length: long}", "state.length", "whole number", ""),
        ("{steps: 0}", "state.steps", "at least 1", ""),
        ("{batch: 1.5}", "state.batch", "whole number", ""),
        ("{lr: 7}", "state.lr", "at most 1", "learning rate"),
        ("s5", "state", "mapping", ""),
    ],
)
def test_one_mistake(text: str, field: str, rule: str, hint: str) -> None:
    probe = PROBES[field.partition(".")[0]]
    problem = problem_of(probe.space_with(text))
    assert (problem.field, problem.line) == (f"proxy.{field}", 11)
    assert rule in problem.rule
    assert hint in problem.hint


@both
def test_settings_without_the_objective_have_no_effect(probe: Probe) -> None:
    problem = problem_of(probe.space_with(probe.other).replace(f"{probe.name}: max, ", ""))
    assert (problem.field, problem.line) == (f"proxy.{probe.name}", 11)
    assert "no effect" in problem.rule
    assert f"{probe.name}: max" in problem.hint


@both
def test_wrong_objectives(probe: Probe) -> None:
    name = probe.name
    for objective, rule in (
        (f"{name}: min", f"worse {name}"),
        (f"{name}@64: max", "takes no context"),
        (f"{name[:-1]}: max", f'"{name}"'),
    ):
        assert rule in problem_of(line(9, f"objectives: {{val_loss: min, {objective}}}")).rule


@both
def test_it_is_no_constraint(probe: Probe) -> None:
    text = line(8, f'constraints: ["{probe.name} >= 0.9"]')
    assert "only known after training" in problem_of(text).rule


@both
def test_the_digest_has_it_only_where_it_is_used(probe: Probe) -> None:
    plain, probed = parse_space(GOOD), parse_space(probe.space)
    for other in PROBES:
        assert other not in plain.to_dict()["proxy"]
        assert (other in probed.to_dict()["proxy"]) == (other == probe.name)
    assert probed.to_dict()["proxy"][probe.name] == probe.defaults
    changed = parse_space(probe.space_with(probe.other))
    assert changed.digest != probed.digest
    before, after = (
        ", ".join(f"{k}: {v}" for k, v in settings.items())
        for settings in (probe.defaults, {**probe.defaults, probe.changed[0]: probe.changed[1]})
    )
    assert [str(item) for item in probed.diff(changed)] == [
        f"proxy.{probe.name}: {{{before}}} -> {{{after}}}"
    ]
