"""Random valid spaces, mixers that stand for those to come, and a trial that walks a whole space."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml
from hypothesis import strategies as st

from search_spaces import SearchSpace, parse_space

BACKBONE = {"vocab_size": 512, "dim": 32, "num_layers": 4, "num_heads": 4, "head_dim": 8, "ffn_dim": 48}
MEASURED = {"val_loss": "min", "params": "min"}


def space_of(search: Mapping[str, Any], **sections: Any) -> SearchSpace:
    """A space around a `search` section."""
    data = {"backbone": BACKBONE, "search": dict(search), "objectives": MEASURED, **sections}
    return parse_space(yaml.safe_dump(data, sort_keys=False))


def choices(values: Sequence[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.lists(st.sampled_from(values), min_size=2, unique=True).map(lambda items: {"choice": items})


@st.composite
def searches(draw: st.DrawFn) -> dict[str, Any]:
    """A valid `search` section over BACKBONE, whatever combination of fields."""
    projections = ["q", "k", "v", "o", "gate", "up", "down"]
    fields: dict[str, st.SearchStrategy[Any]] = {
        "loop.count": st.sampled_from(
            [2, {"range": [1, 3]}, {"range": [1, 5], "step": 2}, {"choice": [4, 1]}]
        ),
        "layout": st.sampled_from(["F", {"choice": ["F", "FF"]}]),
        "backbone.num_layers": choices([3, 4, 5]),
        "backbone.dim": st.just({"range": [16, 32], "step": 8}),
        "backbone.ffn_dim": choices([16, 20, 48]),
        "backbone.num_kv_heads": choices([1, 2, 4]),
    }
    search = {name: draw(values) for name, values in fields.items() if draw(st.booleans())}
    if draw(st.booleans()):
        picked = draw(st.lists(st.sampled_from(projections), min_size=1, unique=True))
        other = ["o", "down"] if set(picked) == {"q", "k", "o"} else ["k", "q", "o"]
        search |= {
            "hdpl.projections": draw(
                st.sampled_from([picked, {"subset": picked}, {"choice": ["none", picked, other]}])
            ),
            "hdpl.blocks": draw(st.sampled_from([2, {"choice": [4, 2]}, {"range": [2, 4], "step": 2}])),
            "hdpl.rank": draw(st.sampled_from([8, {"choice": [4, 8, 32]}, {"range": [1, 20]}])),
        }
        optional: dict[str, st.SearchStrategy[Any]] = {
            "hdpl.kl": st.sampled_from(["mean", {"choice": ["reference", "mean", "free_bits"]}]),
            "hdpl.kl_weight": st.sampled_from([0.01, {"log": [1e-4, 0.1]}, {"choice": [0, 0.001, 0.1]}]),
            "hdpl.layers": st.sampled_from(["0-1", [0, 2], {"choice": ["all", "0-1", "1::2", -1]}]),
        }
        search |= {name: draw(values) for name, values in optional.items() if draw(st.booleans())}
    fixed = all(not isinstance(value, dict) for value in search.values())
    return search | ({"loop.count": {"choice": [1, 2, 3]}} if fixed else {})


class ScriptedTrial:
    """Takes the option numbers of a script, and the first option behind its end."""

    def __init__(self, script: Sequence[int]) -> None:
        self.script, self.arities = list(script), list[int]()
        self.params: dict[str, Any] = {}

    def suggest_categorical(self, name: str, choices: Sequence[Any], /) -> Any:
        return self._take(name, list(choices))

    def suggest_int(self, name: str, low: int, high: int, /, *, step: int = 1) -> int:
        return int(self._take(name, list(range(low, high + 1, step))))

    def suggest_float(self, name: str, low: float, high: float, /, *, log: bool = False) -> float:
        return float(self._take(name, [low]))

    def _take(self, name: str, options: list[Any]) -> Any:
        assert name not in self.params, f"{name} is drawn twice"
        index = len(self.arities)
        self.arities.append(len(options))
        self.params[name] = options[self.script[index] if index < len(self.script) else 0]
        return self.params[name]


def every_trial(space: SearchSpace) -> Iterator[tuple[dict[str, Any], Any]]:
    """(parameters, architecture) of each setting of a space; continua at their lowest value."""
    script: list[int] | None = []
    while script is not None:
        trial = ScriptedTrial(script)
        architecture = space.sample(trial)
        yield trial.params, architecture
        script = trial.script + [0] * (len(trial.arities) - len(trial.script))
        while script and script[-1] + 1 == trial.arities[len(script) - 1]:
            script.pop()
        script = [*script[:-1], script[-1] + 1] if script else None
