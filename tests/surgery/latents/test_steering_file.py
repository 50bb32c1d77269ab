"""Steering files: what they select, and every mistake in them at once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from surgery.config.problems import UserError
from surgery.latents import Adapter, read_steering
from surgery.latents.projections import Latent, latent_ranks
from tests.models import architecture

ARCHITECTURE = architecture(
    "FFF", num_layers=3,
    projections=[
        {"match": ["q", "gate"], "operator": "hdpl", "blocks": 2, "rank": 4},
        {"match": ["o"], "operator": "hdpl", "blocks": 2, "rank": 3, "layers": "2"},
    ],
)  # fmt: skip
RANKS = latent_ranks(ARCHITECTURE)


def problems(text: str, folder: Path) -> list[tuple[int | None, str, str]]:
    path = folder / "steer.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        read_steering(path, RANKS, 3)
    return [(item.line, item.field, item.rule) for item in error.value.problems]


def test_the_latents_of_an_architecture() -> None:
    assert {str(latent): rank for latent, rank in RANKS.items()} == {
        "layers.0.q": 4, "layers.0.gate": 4, "layers.1.q": 4, "layers.1.gate": 4, "layers.2.q": 4,
        "layers.2.o": 3, "layers.2.gate": 4,
    }  # fmt: skip


def test_selectors_and_values(tmp_path: Path) -> None:
    path = tmp_path / "steer.yaml"
    path.write_text(
        "steer:\n"
        "  - {match: gate, layers: '1:', units: [0, 2], add: [1, 2]}\n"
        "  - {match: all, layers: -1, scale: 3, clamp: [null, 5]}\n"
    )
    changes = read_steering(path, RANKS, 3).changes
    assert sorted(map(str, changes)) == ["layers.1.gate", "layers.2.gate", "layers.2.o", "layers.2.q"]
    assert changes[Latent(1, "gate")].offset.tolist() == [1, 0, 2, 0]
    assert not changes[Latent(1, "gate")].clamps
    last = changes[Latent(2, "gate")]
    assert (last.scale.tolist(), last.offset.tolist()) == ([3] * 4, [3, 0, 6, 0])
    assert (last.low.tolist(), last.high.tolist()) == ([-torch.inf] * 4, [5] * 4)


def test_every_mistake_at_once(tmp_path: Path) -> None:
    text = """\
steer:
  - {match: gat, layers: 9, add: x}
  - {match: [q], scal: 2, scale: [1, 2], units: 0-2}
  - {match: [q, o], layers: 0-1, add: 1}
  - {match: gate, units: 4, clamp: [1, 0]}
  - {match: gate, clamp: 3, times: 2}
  - {match: gate}
  - 7
  - {adapter: nowhere, add: 1, times: many}
  - {match: v, add: .nan}
more: 1
"""
    assert problems(text, tmp_path) == [
        (11, "more", "is not a field here"),
        (2, "steer[0].match", "must be 'all' or a list out of q, k, v, o, gate, up, down"),
        (2, "steer[0].layers", "layer 9 does not exist, the stack has 3 (0 to 2)"),
        (2, "steer[0].add", "must be a number"),
        (3, "steer[1].scal", "is not a field here"),
        (3, "steer[1].scale", "has 2 numbers for 3 units of layers.0.q"),
        (4, "steer[2].match", "o: not an HDPL projection in these layers"),
        (5, "steer[3].clamp", "has its lowest value above its highest"),
        (5, "steer[3].units", "unit 4 does not exist, layers.0.gate has 4 (0 to 3)"),
        (6, "steer[4].times", "has no effect without `adapter`"),
        (6, "steer[4].clamp", "must be the lowest and the highest value, such as [-2, 2]"),
        (7, "steer[5]", "changes nothing"),
        (8, "steer[6]", "must be a mapping of fields"),
        (9, "steer[7].add", "does not go with `adapter`"),
        (9, "steer[7].times", "must be a number"),
        (9, "steer[7].adapter", "adapter: is not a folder"),
        (10, "steer[8].match", "v: not an HDPL projection in these layers"),
        (10, "steer[8].add", "must be a number"),
    ]


@pytest.mark.parametrize("text", ["", "steer: []", "steer: 3", "steer: {add: 1}"])
def test_a_file_without_rules(text: str, tmp_path: Path) -> None:
    assert [(field, rule) for _, field, rule in problems(text, tmp_path)] == [
        ("steer", "must be a list of rules")
    ]


def test_an_adapter_beside_the_file(tmp_path: Path) -> None:
    offsets = {Latent(0, "gate"): torch.tensor([1.0, 2, 3, 4]), Latent(1, "q"): torch.ones(4)}
    Adapter(offsets, "base", "hash").save(tmp_path / "asking")
    path = tmp_path / "steer.yaml"
    path.write_text("steer: [{adapter: asking, times: -2, match: gate}, {match: gate, layers: 0, add: 1}]")
    steering = read_steering(path, RANKS, 3)
    assert [(str(name), change.offset.tolist()) for name, change in steering.changes.items()] == [
        ("layers.0.gate", [-1, -3, -5, -7])
    ]
    assert [adapter.base_hash for adapter in steering.adapters] == ["hash"]
    Adapter({Latent(2, "o"): torch.ones(2)}, "base", "hash").save(tmp_path / "short")
    assert problems("steer: [{adapter: short}]", tmp_path) == [
        (1, "steer[0].adapter", "has 2 offsets for the 3 latents of layers.2.o")
    ]
