"""Options by layer: windows, key/value heads and feed-forward widths that differ between layers."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from surgery.architecture import Architecture
from surgery.architecture.costs import cost
from surgery.architecture.scaling import DesignedFor, scaled
from surgery.architecture.strip import plain_strip
from surgery.config.problems import UserError
from tests.models import architecture
from tests.surgery.test_architecture import from_text

DATA: dict[str, Any] = {
    "backbone": {"vocab_size": 50, "dim": 16, "num_layers": 6, "num_heads": 4, "num_kv_heads": 2,
                 "ffn_dim": 24},
    "layout": "FWWNFW",
    "mixers": {
        "F": [{"layers": "4", "kv_heads": 1}],
        "W": [{"layers": "0-2", "window": 8, "sinks": 2}, {"window": 32}],
    },
    "ffn": [{"layers": "2,3", "dim": 10}, {"layers": "5", "dim": 0}],
}  # fmt: skip


def changed(**fields: Any) -> dict[str, Any]:
    return {**copy.deepcopy(DATA), **fields}


def problems_of(data: object) -> list[str]:
    with pytest.raises(UserError) as caught:
        Architecture.from_dict(data)
    return [str(problem) for problem in caught.value.problems]


def test_the_first_matching_rule_gives_a_layer_its_options() -> None:
    layers = Architecture.from_dict(DATA).layers
    assert [layer.mixer_options.get("window") for layer in layers] == [None, 8, 8, None, None, 32]
    assert [layer.mixer_options.get("sinks") for layer in layers] == [None, 2, 2, None, None, 0]
    assert [layer.mixer_options.get("kv_heads") for layer in layers] == [0, 0, 0, None, 1, 0]
    assert [layer.ffn_dim for layer in layers] == [24, 24, 10, 10, 24, 0]
    assert list(layers[3].projections) == ["gate", "up", "down"]
    assert list(layers[5].projections) == ["q", "k", "v", "o"]
    assert layers[4].projections["k"].d_out == 4


def test_it_is_written_and_read_back() -> None:
    arch = Architecture.from_dict(DATA)
    again = from_text(arch.to_yaml())
    assert again.to_dict() == arch.to_dict()
    assert again.to_dict()["mixers"] == DATA["mixers"]
    assert again.to_dict()["ffn"] == DATA["ffn"]
    assert again == arch


def test_line_and_picture() -> None:
    arch = Architecture.from_dict(DATA)
    assert arch.line == "FWWNFW·dense·kv[4:1]·ffn[2-3:10 5:none]"
    assert Architecture.from_dict(changed(ffn=[{"dim": 10}])).line == "FWWNFW·dense·kv[4:1]·ffn[10]"
    looped = Architecture.from_dict(changed(loop={"count": 2}))
    assert looped.line == "FWWNFW·dense·kv[4:1]·ffn[2-3:10 5:none]·loop 2"
    assert plain_strip(arch).splitlines() == [
        "mixer F W W N F W",
        "q     · · ·   · ·",
        "k     · · ·   ◦ ·",
        "v     · · ·   ◦ ·",
        "o     · · ·   · ·",
        "gate  · · ◦ ◦ ·",
        "up    · · ◦ ◦ ·",
        "down  · · ◦ ◦ ·",
    ]


W = DATA["mixers"]["W"]
FFN = DATA["ffn"]


@pytest.mark.parametrize(
    "other",
    [
        changed(mixers={"F": [{"layers": [4], "kv_heads": 1}, {"kv_heads": 2}], "W": W}),
        changed(mixers={
            "F": [{"layers": [-2], "kv_heads": 1}],
            "W": [{"layers": "5", "window": 32}, {"window": 8, "sinks": 2}],
        }),
        changed(ffn=[{"layers": "0:2", "dim": 24}, {"layers": 4, "dim": 24}, {"layers": -1, "dim": 0},
                     {"dim": 10}]),
        changed(ffn=[*FFN, {"dim": 24}], backbone={**DATA["backbone"], "ffn_dim": 77}),
        changed(
            mixers={"F": [{"layers": 4, "kv_heads": 1}, {"kv_heads": 2}],
                    "W": [{**rule, "kv_heads": 2} for rule in W]},
            backbone={**DATA["backbone"], "num_kv_heads": 4},
        ),
    ],
)  # fmt: skip
def test_every_spelling_has_the_same_hash(other: dict[str, Any]) -> None:
    arch, again = Architecture.from_dict(DATA), Architecture.from_dict(other)
    assert again.canonical() == arch.canonical()
    assert again.hash == arch.hash
    assert cost(again, "params") == cost(arch, "params")


def test_one_rule_for_all_is_the_mapping() -> None:
    one, other = (architecture("FW", mixers={"W": given}) for given in ({"window": 5}, [{"window": 5}]))
    assert one == other
    assert architecture("FW", ffn=[{"dim": 20}]) == architecture("FW")
    assert architecture("F", mixers={"F": {"kv_heads": 2}}) == architecture("F")
    assert architecture("F", mixers={"F": {"kv_heads": 1}}) == architecture("F", num_kv_heads=1)
    assert architecture("F", mixers={"F": {"kv_heads": 1}}) != architecture("F")
    some = [{"layers": 0, "kv_heads": 4}]
    assert architecture("F", mixers={"F": some}) != architecture("F", num_kv_heads=4)
    assert architecture("F", mixers={"F": some}) == architecture(
        "F", num_kv_heads=4, mixers={"F": [{"layers": 1, "kv_heads": 2}]}
    )
    assert architecture("SF", mixers={"F": {"kv_heads": 1}}) != architecture("SF", num_kv_heads=1)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (changed(mixers={"W": [{"layers": "0-9"}]}), "mixers.W[0].layers = '0-9': layer 9 does not exist"),
        (changed(mixers={"W": [{"layers": {}}]}), "mixers.W[0].layers = {}: must be a list of layers"),
        (changed(mixers={"W": [{"windo": 3}]}), 'mixers.W[0].windo: is not a field here (did you mean "wi'),
        (changed(mixers={"W": [3]}), "mixers.W[0] = 3: must be a mapping"),
        (changed(mixers={"W": [{"layers": 5, "window": 0}]}), "mixers.W[0].window = 0: must be at least 1"),
        (changed(mixers={"W": [{"window": 4}, {"window": 5}]}), "mixers.W[1] = 'all': matches no W layer"),
        (changed(mixers={"W": [{"layers": 0}]}), "mixers.W[0] = '0': matches no W layer"),
        (changed(mixers={"G": [{"heads": 2}]}), "mixers.G[0] = 'all': matches no G layer (there is none)"),
        (changed(mixers={"F": [{"kv_heads": 1}], "W": {"kv_heads": 3}}),
         "mixers.W.kv_heads = 3: must divide num_heads (4)"),
        (changed(mixers={"F": [{"layers": 4, "kv_heads": 3}]}),
         "mixers.F[0].kv_heads = 3: must divide num_heads (4)"),
        (changed(ffn={"dim": 3}), "ffn = {'dim': 3}: must be a list of rules"),
        (changed(ffn=[{"layers": 1}]), "ffn[0].dim: is missing"),
        (changed(ffn=[{"dim": -1}]), "ffn[0].dim = -1: must be at least 0"),
        (changed(ffn=[{"dim": 1, "layers": "6"}]), "ffn[0].layers = '6': layer 6 does not exist"),
        (changed(ffn=[{"dim": 1}, {"dim": 2, "layers": 1}]), "ffn[1] = '1': matches no layer"),
        (changed(projections=[{"match": "up", "operator": "hdpl", "blocks": 2, "rank": 2, "layers": "5"}]),
         "projections[0] = 'up': matches no projection"),
        (changed(projections=[{"match": "up", "operator": "hdpl", "blocks": 4, "rank": 2}]),
         "projections[0].blocks = 4: must divide both 16 and 10"),
    ],
)  # fmt: skip
def test_mistakes(data: dict[str, Any], problem: str) -> None:
    result = problems_of(data)
    assert any(text.startswith(problem) for text in result), result
    assert len(result) == 1


def test_a_faulty_layout_does_not_make_rules_faulty() -> None:
    assert problems_of(changed(layout="FWX")) == [
        "layout = 'FWX': 'X' is not a mixer (mixers: F, G, D, W, S, K, B, R, M, H, N)"
    ]


def test_a_design_for_any_size_scales_by_layer() -> None:
    ffn = [{"layers": "2,3", "dim": 12}, {"layers": 5, "dim": 0}]
    design = Architecture.from_dict(changed(mixers={"W": [{"layers": "1-2", "window": 16}]}, ffn=ffn))
    backbone = design.with_backbone(dim=32, max_position_embeddings=64).backbone
    new, changes = scaled(design, DesignedFor(width=16, context=32), backbone)
    assert [layer.mixer_options.get("window") for layer in new.layers] == [None, 32, 32, None, None, 512]
    assert [layer.ffn_dim for layer in new.layers] == [24, 24, 24, 24, 24, 0]
    assert changes == ("W window 16 -> 32", "W window 256 -> 512", "ffn dim 12 -> 24")
