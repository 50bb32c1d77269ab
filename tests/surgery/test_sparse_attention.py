"""Sparse top-k attention: against loops in double precision, full attention, and transformers' indexer."""

from __future__ import annotations

import dataclasses
import importlib
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from surgery.config.backbone import Backbone
from surgery.context import Context, DecodeCache
from surgery.mixers.full.module import SoftmaxAttention
from surgery.mixers.softmax import attention_projections
from surgery.mixers.sparse import SparseSpec, chunks, module
from surgery.mixers.sparse.attention import Heads
from surgery.mixers.sparse.gathered import gathered_attention
from surgery.mixers.sparse.indexer import Index, LightningIndexer, index_kl, index_scores
from surgery.mixers.sparse.masked import masked_attention
from surgery.mixers.sparse.module import SparseAttention
from surgery.mixers.sparse.select import as_mask, top_tokens, visible
from surgery.ops.rotary import rotary_tables
from surgery.projections.dense.module import Dense
from tests.models import BACKBONE
from tests.strategies import read_backbone

SIZES = [
    {},
    {"num_kv_heads": 4, "head_dim": 8},
    {"num_kv_heads": 1, "qk_norm": True, "biases": ["q", "k", "v", "o"]},
    {"num_heads": 3, "num_kv_heads": 3, "head_dim": 10, "rope_theta": 100},
]
OPTIONS = {"top_k": 5, "index_heads": 3, "index_dim": 8, "index_weight": 0.5}


def projections(backbone: Backbone) -> Any:
    sizes = attention_projections(backbone)
    return lambda name: Dense(*sizes[name], bias=name in backbone.biases)


def sparse(backbone: Backbone, **options: Any) -> SparseAttention:
    """In training mode, with every parameter off its start."""
    mixer = SparseAttention(backbone, projections(backbone), **{**OPTIONS, **options})
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return mixer


def sizes(**changes: Any) -> Backbone:
    return read_backbone(BACKBONE | changes)


def context_of(
    backbone: Backbone, length: int, padding: Tensor | None = None, cache: DecodeCache | None = None
) -> Context:
    """Context of the next `length` tokens. `padding`: True at real tokens, cached ones too."""
    seen = cache.length if cache is not None else 0
    positions = torch.arange(seen, seen + length)[None]
    if padding is not None:
        positions = (padding.long().cumsum(-1) - 1).clamp(min=0)[:, -length:]
    return Context(rotary_tables(backbone, positions), seen, padding, cache=cache)


def left_padding(*padded: int, length: int) -> Tensor:
    return torch.stack([torch.arange(length) >= count for count in padded])


def slow_sparse(mixer: SparseAttention, backbone: Backbone, x: Tensor) -> tuple[Tensor, Tensor]:
    """(output, KL in nats per row) of one sequence; a query and a head at a time."""
    length, width = len(x), backbone.head_dim

    def turned(y: Tensor, size: int) -> Tensor:
        """(t, channels) with the first `size` channels rotated, as complex numbers."""
        half = size // 2
        steps = torch.arange(half) * 2 / size
        angles = (torch.arange(length)[:, None] * (1 / backbone.rope_theta**steps)).to(y.dtype)
        pairs = torch.complex(y[:, :half], y[:, half:size]) * torch.polar(torch.ones_like(angles), angles)
        return torch.cat((pairs.real, pairs.imag, y[:, size:]), dim=-1)

    def heads(projection: Any, norm: Any = None) -> list[Tensor]:
        flat = x @ projection.weight.T + (0 if projection.bias is None else projection.bias)
        split = list(flat.split(width, dim=-1))
        if norm is not None and hasattr(norm, "weight"):
            root = [(y.square().mean(-1, keepdim=True) + backbone.norm_eps).sqrt() for y in split]
            split = [norm.weight * y / r for y, r in zip(split, root, strict=True)]
        return split if norm is None else [turned(y, width) for y in split]

    q, k, v = heads(mixer.q, mixer.q_norm), heads(mixer.k, mixer.k_norm), heads(mixer.v)
    group = len(q) // len(k)
    indexer = mixer.indexer
    still = x.detach()
    raw = still @ indexer.k.weight.T
    centred = raw - raw.mean(-1, keepdim=True)
    key = centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    key = turned(key * indexer.k_norm.weight + indexer.k_norm.bias, 2 * indexer.pairs)
    queries = [turned(y, 2 * indexer.pairs) for y in (still @ indexer.q.weight.T).split(indexer.size, dim=-1)]
    weights = still @ indexer.weights.weight.T
    rows, kl = [], still.new_zeros(())
    for t in range(length):
        scores = [
            sum(weights[t, j] * (queries[j][t] * key[s]).sum().relu() for j in range(indexer.heads))
            / (indexer.heads**0.5 * indexer.size**0.5)
            for s in range(t + 1)
        ]
        order = sorted(range(t + 1), key=lambda s: (float(scores[s].detach().float()), s), reverse=True)
        chosen = sorted(order[: mixer.top_k])
        mixed, target = [], torch.zeros(len(chosen), dtype=x.dtype)
        for head in range(len(q)):
            logits = (k[head // group][chosen] * q[head][t]).sum(-1) / width**0.5
            p = logits.exp() / logits.exp().sum()
            mixed.append(p @ v[head // group][chosen])
            target = target + p.detach()
        rows.append(torch.cat(mixed))
        target = target / target.sum()
        guess = torch.stack([scores[s] for s in chosen]).exp()
        kl = kl + (target * (target / (guess / guess.sum())).log()).sum()
    y = torch.stack(rows) @ mixer.o.weight.T
    return y if mixer.o.bias is None else y + mixer.o.bias, kl / length


@pytest.mark.parametrize("gather_from", [0, 1000])
@pytest.mark.parametrize("length", [1, 2, 5, 6, 23])
@pytest.mark.parametrize("backbone", SIZES)
def test_equals_loops_in_double_precision(
    backbone: dict[str, Any], length: int, gather_from: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(module.GATHER_FROM, "cpu", gather_from)
    monkeypatch.setitem(chunks.CHUNK_ELEMENTS, "cpu", 900)
    bones = sizes(**backbone)
    # 8 index channels: head_dim 6 and 10 have no two pairs to rotate, 8 has
    mixer = sparse(bones).double()
    x = torch.randn(2, length, 24, dtype=torch.float64, requires_grad=True)
    context = context_of(bones, length)
    y = mixer(x, context)
    slow = [slow_sparse(mixer, bones, row) for row in x]
    torch.testing.assert_close(y, torch.stack([item[0] for item in slow]), rtol=1e-6, atol=1e-6)
    (kl,) = context.losses
    slow_kl = 0.5 * torch.stack([item[1] for item in slow]).mean()
    torch.testing.assert_close(kl, slow_kl, rtol=1e-6, atol=1e-7)
    weight = torch.randn_like(y)
    parameters = [x, *mixer.parameters()]
    slow_y = torch.stack([item[0] for item in slow])
    fast_gradients = torch.autograd.grad((y * weight).sum() + kl, parameters)
    slow_gradients = torch.autograd.grad((slow_y * weight).sum() + slow_kl, parameters, allow_unused=True)
    for fast, expected in zip(fast_gradients, slow_gradients, strict=True):
        torch.testing.assert_close(fast, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("backbone", SIZES)
@pytest.mark.parametrize("gather_from", [0, 1000])
@pytest.mark.parametrize("top_k", [21, 22, 64])
def test_selecting_everything_is_full_attention(
    backbone: dict[str, Any], top_k: int, gather_from: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(module.GATHER_FROM, "cpu", gather_from)
    bones = sizes(**backbone)
    mixer = sparse(bones, top_k=top_k)
    full = SoftmaxAttention(bones, projections(bones), kv_heads=bones.num_kv_heads, gated=False)
    full.load_state_dict({k: v for k, v in mixer.state_dict().items() if not k.startswith("indexer.")})
    trunk = [parameter for name, parameter in mixer.named_parameters() if not name.startswith("indexer.")]
    x = torch.randn(2, 21, 24)
    for padding in (None, left_padding(0, 8, length=21)):
        one, two = (each(x, context_of(bones, 21, padding)) for each in (mixer, full))
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)
    mixer.double(), full.double()
    one, two = (each(x.double(), context_of(bones, 21)) for each in (mixer, full))
    gradients = torch.autograd.grad(one.square().sum(), trunk)
    for mine, expected in zip(
        gradients, torch.autograd.grad(two.square().sum(), full.parameters()), strict=True
    ):
        torch.testing.assert_close(mine, expected, rtol=1e-5, atol=1e-6)


def pieces(length: int, seen: int, padded: int, seed: int, dtype: torch.dtype) -> tuple[Any, Context]:
    """Random inputs of both paths, and their context."""
    torch.manual_seed(seed)
    batch, heads, groups, size, total = 2, 4, 2, 6, seen + length
    inputs = [torch.randn(batch, n, m, size, dtype=dtype) for n, m in
              ((heads, length), (groups, total), (groups, total))]  # fmt: skip
    inputs += [torch.randn(batch, length, 3, 8, dtype=dtype), torch.randn(batch, length, 3, dtype=dtype)]
    inputs += [torch.randn(batch, total, 8, dtype=dtype)]
    for tensor in inputs:
        tensor.requires_grad_()
    padding = left_padding(0, min(padded, total - 1), length=total) if padded else None
    tables = torch.zeros(batch, length, size)
    return inputs, Context((tables, tables), seen, padding)


@given(
    length=st.integers(1, 40), seen=st.integers(0, 20), padded=st.integers(0, 50), top_k=st.integers(2, 70),
    elements=st.sampled_from([1, 300, 2000, 1 << 22]), seed=st.integers(0, 9),
)  # fmt: skip
def test_gathering_equals_masking(
    length: int, seen: int, padded: int, top_k: int, elements: int, seed: int
) -> None:
    results = []
    for attention in (masked_attention, gathered_attention):
        (q, k, v, *index), context = pieces(length, seen, padded, seed, torch.float32)
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(chunks.CHUNK_ELEMENTS, "cpu", elements)
            mixed, kl = attention(Heads(q, k, v), Index(*index), context, top_k, with_kl=True)
            weight = torch.linspace(-1, 1, mixed.numel()).view_as(mixed)
            gradients = torch.autograd.grad((mixed * weight).sum() + kl, [q, k, v, *index])
            silent, none = attention(Heads(q, k, v), Index(*index), context, top_k, with_kl=False)
        torch.testing.assert_close(silent, mixed)
        assert none == 0
        results.append((mixed, kl, *gradients))
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5)


@given(length=st.integers(1, 60), count=st.integers(2, 70), equal=st.booleans())
def test_a_row_selects_what_it_may_at_most_k_and_of_equal_ones_the_latest(
    length: int, count: int, equal: bool
) -> None:
    tables = torch.zeros(1, length, 2)
    allowed = visible(Context((tables, tables)), slice(0, length))
    scores = torch.randn(2, length, length)
    if equal:
        scores = torch.where(scores > 0, 0.0, -0.0)
    tokens, real = top_tokens(scores, allowed, min(count, length))
    mask = as_mask(tokens, real, length)
    rows = torch.arange(length) + 1
    assert torch.equal(mask.sum(-1), rows.clamp(max=count).expand(2, -1))
    assert not mask.triu(1).any()
    if equal:
        assert torch.equal(mask[0], allowed[0].triu(1 - count))
    else:
        left = scores.masked_fill(mask | ~allowed, -torch.inf).amax(-1)
        assert (scores.masked_fill(~mask, torch.inf).amin(-1) >= left).all()


@pytest.mark.parametrize(
    ("length", "kv_heads", "gathers"),
    [(1, 4, True), (2, 4, False), (8 * 32, 4, False), (8 * 32 + 1, 4, True), (8 * 16, 2, False),
     (8 * 16 + 1, 2, True)],
)  # fmt: skip
def test_long_sequences_and_single_tokens_are_gathered(
    length: int, kv_heads: int, gathers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    ways: list[str] = []
    for name in ("gathered_attention", "masked_attention"):
        whole = getattr(module, name)

        def noted(*arguments: Any, name: str = name, whole: Any = whole, **named: Any) -> Any:
            ways.append(name)
            return whole(*arguments, **named)

        monkeypatch.setattr(module, name, noted)
    bones = sizes(num_kv_heads=kv_heads)
    sparse(bones, top_k=8)(torch.randn(1, length, 24), context_of(bones, length))
    assert ways == ["gathered_attention" if gathers else "masked_attention"]


def test_each_loss_trains_its_own_part() -> None:
    bones = sizes()
    mixer = sparse(bones)
    x = torch.randn(2, 21, 24, requires_grad=True)
    context = context_of(bones, 21)
    y = mixer(x, context)
    named = dict(mixer.named_parameters())

    def touched(loss: Tensor) -> set[str]:
        gradients = torch.autograd.grad(loss, [*named.values(), x], allow_unused=True, retain_graph=True)
        return {name for name, g in zip([*named, "x"], gradients, strict=True) if g is not None and g.any()}

    indexer = {name for name in named if name.startswith("indexer.")}
    assert len(indexer) == 5
    assert touched(context.losses[0]) == indexer
    assert touched(y.square().sum()) == {*named, "x"} - indexer


def test_no_loss_without_weight_or_training() -> None:
    bones = sizes()
    x = torch.randn(1, 9, 24)
    for mixer in (sparse(bones, index_weight=0.0), sparse(bones).eval()):
        context = context_of(bones, 9)
        mixer(x, context)
        assert context.losses == []
    spec = SparseSpec()
    assert "never trained" in spec.warning({**OPTIONS, "index_weight": 0.0})
    assert spec.warning(OPTIONS) == ""


@pytest.mark.parametrize("gather_from", [0, 1000])
def test_padding_counts_in_no_loss(gather_from: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(module.GATHER_FROM, "cpu", gather_from)
    bones = sizes()
    mixer = sparse(bones)
    lengths = [17, 9, 1]
    x = torch.randn(3, 17, 24)
    context = context_of(bones, 17, left_padding(*(17 - n for n in lengths), length=17))
    y = mixer(x, context)
    total = torch.zeros(())
    for row, length in enumerate(lengths):
        alone = context_of(bones, length)
        real = mixer(x[row : row + 1, 17 - length :], alone)
        torch.testing.assert_close(y[row, 17 - length :], real[0], rtol=1e-5, atol=1e-5)
        total = total + alone.losses[0] * length
    torch.testing.assert_close(context.losses[0], total / sum(lengths), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("gather_from", [0, 2, 1000])
@pytest.mark.parametrize("steps", [[40], [1] * 40, [12, 1, 20, 7]])
def test_cached_steps_equal_one_pass(
    steps: list[int], gather_from: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    bones = sizes()
    mixer = sparse(bones).eval()
    x = torch.randn(2, 40, 24)
    with torch.no_grad():
        whole = mixer(x, context_of(bones, 40))
        monkeypatch.setitem(module.GATHER_FROM, "cpu", gather_from)
        cache = DecodeCache()
        parts = []
        for piece in x.split(steps, dim=1):
            parts.append(mixer(piece, context_of(bones, piece.shape[1], cache=cache)))
            cache.length += piece.shape[1]
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=1e-5, atol=1e-5)
    assert [t.shape for t in cache.states[0, 0]] == [(2, 2, 40, 6), (2, 2, 40, 6), (2, 1, 40, 8)]


@pytest.mark.parametrize("scaling", [None, {"rope_type": "linear", "factor": 4.0}])
def test_scores_and_selection_are_those_of_transformers(
    scaling: dict[str, Any] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = importlib.import_module("transformers.models.deepseek_v32.modeling_deepseek_v32")
    bones = sizes(head_dim=16, rope_scaling=scaling)
    indexer = LightningIndexer(bones, 4, 16)
    nn.init.normal_(indexer.k_norm.weight)
    nn.init.normal_(indexer.k_norm.bias)
    config = SimpleNamespace(
        hidden_size=24, index_n_heads=4, index_head_dim=16, qk_rope_head_dim=8, index_topk=7, q_lora_rank=24
    )
    reference = theirs.DeepseekV32Indexer(config, 0)
    reference.load_state_dict({
        "wq_b.weight": indexer.q.weight, "wk.weight": indexer.k.weight,
        "weights_proj.weight": indexer.weights.weight,
        "k_norm.weight": indexer.k_norm.weight, "k_norm.bias": indexer.k_norm.bias,
    })  # fmt: skip
    x = torch.randn(2, 30, 24)
    context = context_of(bones, 30)
    allowed = visible(context, slice(0, 30))
    # 8 of the 16 channels are rotated there: tables of a head of 8
    narrow = rotary_tables(dataclasses.replace(bones, head_dim=8), torch.arange(30)[None])
    seen: list[Tensor] = []
    topk = torch.Tensor.topk

    def recorded(self: Tensor, *arguments: Any, **named: Any) -> Any:
        seen.append(self)
        return topk(self, *arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "topk", recorded)
        chosen = reference(x, x, narrow, allowed.expand(2, -1, -1), torch.arange(30)[None])
    (expected,) = seen
    q, weights = indexer.query(x, context.rotary)
    scores = index_scores(q, weights, indexer.key(x, context.rotary)[:, 0])
    torch.testing.assert_close(scores.masked_fill(~allowed, -torch.inf), expected, rtol=1e-5, atol=1e-6)
    mask = as_mask(*top_tokens(scores, allowed, 7), 30)
    full = slice(6, 30)  # rows of seven tokens and more; theirs fills shorter ones up with the future
    their_mask = torch.zeros_like(mask).scatter_(-1, chosen.long(), True) & allowed
    unique = expected[:, full].sort(-1, descending=True).values.diff(dim=-1)[..., 6] != 0
    assert unique.float().mean() > 0.9  # of equal scores theirs takes any
    assert torch.equal(mask[:, full][unique], their_mask[:, full][unique])


def test_the_kl_is_zero_where_the_scores_are_the_attention() -> None:
    target = torch.rand(2, 3, 5).softmax(-1)
    everything = torch.ones(2, 3, 5, dtype=torch.bool)
    torch.testing.assert_close(index_kl(target, target.log(), everything, None), torch.zeros(()))
    assert index_kl(target, target.log().flip(-1), everything, None) > 0.01
    none_real = torch.zeros(2, 3, dtype=torch.bool)
    assert index_kl(target, target.log().flip(-1), everything, none_real) == 0


def attention_mass(mixer: SparseAttention, bones: Backbone, x: Tensor, *, at_random: bool = False) -> float:
    """Share of the full attention's probability that falls on the selected tokens, mean over the heads and
    over the rows that have to leave tokens out."""
    length = x.shape[1]
    context = context_of(bones, length)
    allowed = visible(context, slice(0, length))
    with torch.no_grad():
        heads = [p(x).unflatten(-1, (-1, bones.head_dim)).transpose(1, 2) for p in (mixer.q, mixer.k)]
        q, k = (module.rotate(y, context.rotary) for y in heads)
        k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
        logits = (q @ k.transpose(-1, -2) / bones.head_dim**0.5).masked_fill(~allowed[:, None], -torch.inf)
        probabilities = logits.softmax(-1).mean(1)
        index = mixer.indexer.query(x, context.rotary)
        scores = index_scores(*index, mixer.indexer.key(x, context.rotary)[:, 0])
        if at_random:
            scores = torch.rand_like(scores)
        mask = as_mask(*top_tokens(scores, allowed, mixer.top_k), length)
        return float((probabilities * mask).sum(-1)[:, 2 * mixer.top_k :].mean())


def test_a_trained_indexer_finds_where_attention_looks() -> None:
    bones = sizes(head_dim=16, num_heads=2, num_kv_heads=1)
    mixer = sparse(bones, top_k=8, index_heads=4, index_dim=16, index_weight=1.0)
    with torch.no_grad():
        mixer.q.weight.mul_(1.5)  # attention that has something to say
        mixer.k.weight.mul_(1.5)
    optimizer = torch.optim.Adam(mixer.indexer.parameters(), lr=1e-2)
    held_out = torch.randn(8, 64, 24)
    untrained, random = (attention_mass(mixer, bones, held_out, at_random=a) for a in (False, True))
    for _ in range(150):
        context = context_of(bones, 64)
        mixer(torch.randn(8, 64, 24), context)
        optimizer.zero_grad()
        context.losses[0].backward()
        optimizer.step()
    trained = attention_mass(mixer, bones, held_out)
    assert trained > random + 0.2, (trained, untrained, random)
    assert trained > untrained + 0.2, (trained, untrained, random)


@pytest.mark.parametrize("attention", [masked_attention, gathered_attention])
@pytest.mark.parametrize("top_k", [8, 40])
def test_bfloat16_is_near_where_the_selection_is_the_same(attention: Any, top_k: int) -> None:
    """An index score rounded past its neighbour selects another token: here all but the index is rounded."""
    (q, k, v, *index), context = pieces(40, 0, 0, 1, torch.float32)
    exact, kl = attention(Heads(q, k, v), Index(*index), context, top_k, with_kl=True)
    half = [tensor.bfloat16() for tensor in (q, k, v)]
    rounded, near = attention(Heads(*half), Index(*index), context, top_k, with_kl=True)
    assert rounded.dtype == torch.bfloat16
    assert near.dtype == torch.float32
    assert (rounded.float() - exact).norm() < 0.02 * exact.norm()
    assert abs(near - kl) < 0.02 * kl


def test_training_keeps_of_what_grows_with_k_only_the_selection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gathered keys, values and probabilities are computed again: no head count enters."""
    monkeypatch.setitem(chunks.CHUNK_ELEMENTS, "cpu", 4000)
    kept = []
    for top_k in (8, 32):
        (q, k, v, *index), context = pieces(64, 0, 0, 1, torch.float32)
        sizes_kept: dict[int, int] = {}

        def pack(tensor: Tensor, sizes_kept: dict[int, int] = sizes_kept) -> Tensor:
            sizes_kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            gathered_attention(Heads(q, k, v), Index(*index), context, top_k, with_kl=True)
        kept.append(sum(sizes_kept.values()))
    assert kept[1] - kept[0] <= 2 * 64 * (32 - 8) * (8 + 1)  # bytes: a position and a flag each
