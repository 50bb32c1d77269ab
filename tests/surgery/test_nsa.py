"""Native Sparse Attention against the paper's equations, a query, a head and a block at a time.

The loops follow arXiv 2502.11089 (equations 5 to 12), with flash-linear-attention's choices where they
differ: the branches share keys and values, and `compress: mean` is the mean of a block.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from surgery.config.backbone import Backbone
from surgery.config.problems import UserError
from surgery.context import Context, DecodeCache
from surgery.mixers.full.module import SoftmaxAttention
from surgery.mixers.nsa import NativeSparseSpec, branches
from surgery.mixers.nsa.branches import chosen_blocks
from surgery.mixers.nsa.module import NativeSparseAttention
from surgery.mixers.nsa.sizes import Sizes
from surgery.mixers.softmax import attention_projections
from surgery.mixers.sparse import chunks
from surgery.ops.rotary import rotary_tables
from surgery.projections.dense.module import Dense
from tests.models import BACKBONE, architecture, build
from tests.strategies import read_backbone

BACKBONES: list[dict[str, Any]] = [
    {},
    {"num_kv_heads": 1, "qk_norm": True, "biases": ["q", "k", "v", "o"]},
    {"num_kv_heads": 4, "head_dim": 8},
]
SIZES: list[dict[str, Any]] = [
    {"block": 4, "blocks": 3, "window": 5},
    {"block": 8, "pooled": 4, "stride": 2, "blocks": 3, "window": 3},  # the paper's proportions
    {"block": 4, "stride": 2, "blocks": 4, "window": 1},
    {"block": 2, "blocks": 100, "window": 100},  # everything is selected, and in the window
]


def options_of(**given: Any) -> dict[str, Any]:
    return {name: given.get(name, option.default) for name, option in NativeSparseSpec.options.items()}


def projections(backbone: Backbone) -> Any:
    sizes = attention_projections(backbone)
    return lambda name: Dense(*sizes[name], bias=name in backbone.biases)


def nsa(backbone: Backbone, **given: Any) -> NativeSparseAttention:
    """Every parameter is off its start."""
    mixer = NativeSparseSpec().build(backbone, options_of(**given), projections(backbone))
    assert isinstance(mixer, NativeSparseAttention)
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.4)
    return mixer


def context_of(backbone: Backbone, length: int) -> Context:
    return Context(rotary_tables(backbone, torch.arange(length)[None]))


def softmax_over(query: Tensor, keys: list[Tensor], values: list[Tensor]) -> tuple[Tensor, list[float]]:
    """Attention of one query; nothing to see is zero."""
    if not keys:
        return torch.zeros_like(query), []
    weights = (torch.stack(keys) @ query / len(query) ** 0.5).exp()
    weights = weights / weights.sum()
    return weights @ torch.stack(values), weights.tolist()


def slow_nsa(mixer: NativeSparseAttention, backbone: Backbone, x: Tensor, given: dict[str, Any]) -> Tensor:
    """One sequence (t, dim), in its own precision."""
    options = options_of(**given)
    block, top, window = (options[name] for name in ("block", "blocks", "window"))
    pooled = options["pooled"] or block
    stride = options["stride"] or pooled
    length, width = len(x), backbone.head_dim

    def turned(y: Tensor) -> Tensor:
        half = width // 2
        angles = torch.arange(length)[:, None] / backbone.rope_theta ** (torch.arange(half) * 2 / width)
        # the angle as the model's tables have it, in float32
        unit = torch.polar(torch.ones_like(angles), angles).to(torch.complex128)
        pairs = torch.complex(y[:, :half], y[:, half:]).to(torch.complex128) * (unit / unit.abs())
        return torch.cat((pairs.real, pairs.imag), dim=-1).to(y.dtype)

    def heads(projection: Any, norm: Any = None) -> list[Tensor]:
        flat = x @ projection.weight.T + (0 if projection.bias is None else projection.bias)
        split = list(flat.split(width, dim=-1))
        if norm is not None and hasattr(norm, "weight"):
            split = [
                norm.weight * y / (y.square().mean(-1, keepdim=True) + backbone.norm_eps).sqrt()
                for y in split
            ]
        return split if norm is None else [turned(y) for y in split]

    def compress(module: Any, tokens: Tensor) -> Tensor:
        mean = tokens.mean(0)
        if module.positions is None:
            return mean
        flat = torch.cat([tokens[i] + module.positions[i * width : (i + 1) * width] for i in range(pooled)])
        inner = module.up.weight @ flat
        out: Tensor = mean + module.down.weight @ (inner * inner.sigmoid())
        return out

    q, k, v = heads(mixer.q, mixer.q_norm), heads(mixer.k, mixer.k_norm), heads(mixer.v)
    group = len(q) // len(k)
    gates = (x @ mixer.gate.weight.T + mixer.gate.bias).sigmoid()  # compressed, selected, window; by heads
    starts = range(0, length - pooled + 1, stride)
    short = [
        [compress(module, y[start : start + pooled]) for start in starts]
        for module, side in ((mixer.k_compress, k), (mixer.v_compress, v))
        for y in side
    ]
    short_k, short_v = short[: len(k)], short[len(k) :]
    rows = []
    for t in range(length):
        mixed: list[Tensor] = []
        for g in range(len(k)):
            seen = [i for i, start in enumerate(starts) if start + pooled - 1 <= t]
            mine = range(g * group, (g + 1) * group)
            compressed, score = [], [0.0] * (t // block + 1)
            for head in mine:
                out, weights = softmax_over(
                    q[head][t], [short_k[g][i] for i in seen], [short_v[g][i] for i in seen]
                )
                compressed.append(out)
                for i, weight in zip(seen, weights, strict=True):
                    for first in range(starts[i], starts[i] + pooled, stride):
                        score[first // block] += weight
            own = t // block
            fixed = {0, own, max(0, own - 1)}
            order = sorted(range(own + 1), key=lambda j: (j in fixed, score[j], j), reverse=True)
            picked = [s for j in order[:top] for s in range(j * block, min((j + 1) * block, t + 1))]
            near = range(max(0, t - window + 1), t + 1)
            for head, first in zip(mine, compressed, strict=True):
                parts = [first]
                for tokens in (picked, near):
                    parts.append(
                        softmax_over(q[head][t], [k[g][s] for s in tokens], [v[g][s] for s in tokens])[0]
                    )
                weights = [gates[t, branch * len(q) + head] for branch in range(3)]
                mixed.append(sum(w * part for w, part in zip(weights, parts, strict=True)))  # type: ignore[arg-type]
        rows.append(torch.cat(mixed))
    y = torch.stack(rows) @ mixer.o.weight.T
    return y if mixer.o.bias is None else y + mixer.o.bias


CASES = [
    pytest.param(given | {"compress": compress}, BACKBONES[index % len(BACKBONES)], id=f"{index}-{compress}")
    for index, (given, compress) in enumerate([*((sizes, "mean") for sizes in SIZES), (SIZES[1], "mlp")])
]


@pytest.mark.parametrize("gather_from", [0, 1000])
@pytest.mark.parametrize(("given", "backbone"), CASES)
def test_equals_the_papers_loops(
    given: dict[str, Any], backbone: dict[str, Any], gather_from: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The module in float32, and the loops in float64; the output and the gradients of everything."""
    monkeypatch.setitem(branches.GATHER_FROM, "cpu", gather_from)
    monkeypatch.setitem(chunks.CHUNK_ELEMENTS, "cpu", 700)
    bones = read_backbone(BACKBONE | backbone)
    mixer = nsa(bones, **given)
    x = torch.randn(1, 23, 24, requires_grad=True)
    weight = torch.randn_like(x)
    y = mixer(x, context_of(bones, 23))
    fast = torch.autograd.grad((y * weight).sum(), [x, *mixer.parameters()])
    mixer = mixer.double()
    exact = x.detach()[0].double().requires_grad_()
    slow_y = slow_nsa(mixer, bones, exact, given)
    slow = torch.autograd.grad((slow_y * weight[0]).sum(), [exact, *mixer.parameters()])
    for mine, theirs in zip((y, *fast), (slow_y, *slow), strict=True):
        scale = max(1.0, float(theirs.detach().abs().max()))
        torch.testing.assert_close(mine.double() / scale, theirs.view_as(mine) / scale, rtol=0, atol=1e-5)


def test_everything_selected_in_the_window_is_full_attention() -> None:
    """Both the second and the third branch, to the gates."""
    bones = read_backbone(BACKBONE)
    mixer = nsa(bones, block=4, blocks=5, window=20)
    attention = SoftmaxAttention(bones, projections(bones), kv_heads=bones.num_kv_heads, gated=False)
    attention.load_state_dict(mixer.state_dict(), strict=False)
    x = torch.randn(2, 20, 24)
    with torch.no_grad():
        mixer.gate.weight.zero_()
        for branch in (1, 2):
            opened = torch.full((3, bones.num_heads), -30.0)
            opened[branch] = 30.0
            mixer.gate.bias.copy_(opened.flatten())
            torch.testing.assert_close(mixer(x, context_of(bones, 20)), attention(x, context_of(bones, 20)))


def test_a_selected_block_counts_compressed_ones_by_the_strides_they_share() -> None:
    """Equation 9 for l = 4, d = 2, l' = 4: strides 2j and 2j + 1 of compressed blocks i and i + 1."""
    sizes = Sizes(block=4, pooled=4, stride=2, blocks=4, window=1)
    importance = torch.zeros(
        1, 1, 11
    )  # of 24 tokens in 6 blocks; block 5 is the query's, and 4 the one before
    importance[0, 0, 3] = 0.5  # tokens 6 to 9: half in block 1, half in block 2
    importance[0, 0, 6] = 0.3  # tokens 12 to 15: block 3
    chosen, real = chosen_blocks(importance, torch.tensor([[23]]), sizes, 24)
    assert sorted(chosen[0, 0].tolist()) == [0, 3, 4, 5]
    assert real.all()
    chosen, real = chosen_blocks(importance[..., :3], torch.tensor([[7]]), sizes, 24)
    assert sorted(chosen[real].tolist()) == [0, 1]  # later blocks are no choice


def test_a_block_is_compressed_once_it_is_complete() -> None:
    sizes = Sizes(block=8, pooled=4, stride=2, blocks=3, window=1)
    counted = [sum(start + 4 <= tokens for start in range(0, 40, 2)) for tokens in range(40)]
    assert [sizes.complete(tokens) for tokens in range(40)] == counted
    assert [sizes.total_complete(length) for length in range(40)] == [
        sum(counted[: n + 1]) for n in range(40)
    ]


def test_the_cache_has_complete_blocks_only() -> None:
    model = build(architecture("B", mixers={"B": {"block": 4, "blocks": 3}}, num_layers=1))
    cache = DecodeCache()
    tokens = torch.randint(37, (2, 11))
    for token in range(11):
        model(tokens[:, [token]], cache=cache)
        keys, _, pooled, _ = cache.states[0, 0]
        assert (keys.shape[2], pooled.shape[2]) == (token + 1, (token + 1) // 4)
        for block in range(pooled.shape[2]):
            torch.testing.assert_close(pooled[:, :, block], keys[:, :, 4 * block : 4 * block + 4].mean(2))


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"block": 4, "pooled": 8}, "pooled"),
        ({"block": 6, "stride": 4}, "stride"),
        ({"stride": 32}, "stride"),
    ],
)
def test_blocks_that_do_not_fit_are_refused(options: dict[str, Any], field: str) -> None:
    with pytest.raises(UserError, match=field):
        architecture("B", mixers={"B": options})


def test_sizes_that_are_written_out_are_the_same_architecture() -> None:
    written = architecture("B", mixers={"B": {"block": 16, "pooled": 16, "stride": 16}})
    assert written == architecture("B")
    assert written.hash == architecture("B").hash
    assert architecture("B", mixers={"B": {"stride": 8}}) != architecture("B")
