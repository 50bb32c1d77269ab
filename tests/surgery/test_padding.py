"""Padding anywhere: real tokens get what each row alone, without padding, gets; in one pass and in turns."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from surgery.context import DecodeCache
from surgery.mixers import MIXERS
from surgery.model import HybridLM
from surgery.ops.padding import close_gaps, read_padding
from tests.models import architecture, build

SHORT: dict[str, Any] = {
    "W": {"window": 4}, "S": {"top_k": 4}, "K": {"window": 5}, "G": {"conv_size": 4},
    "B": {"block": 4, "stride": 2, "blocks": 3, "window": 5},
}  # fmt: skip
HDPL: list[Any] = [{"match": ["q", "v", "o", "up", "down"], "operator": "hdpl", "blocks": 2, "rank": 3}]
MODELS: dict[str, dict[str, Any]] = {
    **{letter: {"layout": letter} for letter in MIXERS},
    "K without window": {"layout": "K"},
    "W with sinks": {"layout": "W", "mixers": {"W": {"window": 4, "sinks": 3}}},
    "loops with sinks": {
        "layout": "WF",
        "loops": 2,
        "windows": [2, 6],
        "mixers": {"W": {"window": 5, "sinks": 2}},
    },
    "G without convolution": {"layout": "G", "mixers": {"G": {"conv_size": 0}}},
    "biases and norms": {"layout": "GW", "biases": "all", "qk_norm": True},
    "HDPL": {"layout": "GW", "projections": HDPL},
    "loops": {"layout": "FGDWSK", "num_layers": 6, "loops": 2, "projections": HDPL},
    "windows of passes": {"layout": "FG", "loops": 3, "windows": [3, 5, "full"]},
}
MODELS["K without window"]["mixers"] = {"K": {"window": 0}}
TURNS = [9, 1, 1, 7, 1, 12]
# real tokens of each turn and row; `everywhere` is drawn, and its rows have turns without any
KINDS = ("left", "right", "middle", "everywhere")


def model_of(name: str) -> HybridLM:
    torch.manual_seed(len(name))
    given = dict(MODELS[name])
    mixers = SHORT | given.pop("mixers", {})
    return build(architecture(mixers=mixers, **given), spread=0.2)


def mask_of(kind: str, turn: int, size: int) -> Tensor:
    """(3, size): in a turn of several tokens the rows have some, half and nearly all of them."""
    if size == 1:
        return torch.tensor([[1], [turn % 2 if kind == "everywhere" else 1], [1]])
    counts = torch.tensor([[max(1, size // 4)], [size // 2], [size - 1]]).roll(turn, 0)
    columns = torch.arange(size)[None]
    if kind == "left":
        return (columns >= size - counts).long()
    if kind == "right":
        return (columns < counts).long()
    if kind == "middle":
        return ((columns < counts // 2) | (columns >= size - counts + counts // 2)).long()
    drawn = (torch.rand(3, size, generator=torch.Generator().manual_seed(turn)) < 0.5).long()
    drawn[turn % 3] = 0
    return drawn


def alone(model: HybridLM, tokens: Tensor, mask: Tensor) -> list[Tensor]:
    """Logits of each row's real tokens in one pass without padding or cache."""
    return [model.head(model(row[real.bool()][None]))[0] for row, real in zip(tokens, mask, strict=True)]


def assert_real_rows(result: Tensor, mask: Tensor, wanted: list[Tensor]) -> None:
    assert torch.isfinite(result).all()
    for row, real, expected in zip(result, mask, wanted, strict=True):
        torch.testing.assert_close(row[real.bool()], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_padded_turns_equal_each_row_alone(name: str, kind: str) -> None:
    model = model_of(name)
    mask = torch.cat([mask_of(kind, turn, size) for turn, size in enumerate(TURNS)], dim=1)
    tokens = torch.randint(37, mask.shape)
    wanted = alone(model, tokens, mask)
    assert_real_rows(model.head(model(tokens, attention_mask=mask)), mask, wanted)
    cache, parts = DecodeCache(), []
    for size in TURNS:
        start, stop = cache.length, cache.length + size
        parts.append(model(tokens[:, start:stop], attention_mask=mask[:, :stop], cache=cache))
    assert_real_rows(model.head(torch.cat(parts, dim=1)), mask, wanted)


@pytest.mark.parametrize("name", ["W", "G", "S", "B", "loops"])
@torch.no_grad()
def test_a_pass_without_a_mask_continues_padded_rows(name: str) -> None:
    model, cache = model_of(name), DecodeCache()
    mask = mask_of("right", 0, 9)
    tokens = torch.randint(37, (3, 12))
    model(tokens[:, :9], attention_mask=mask, cache=cache)
    parts = [model(tokens[:, [column]], cache=cache) for column in range(9, 12)]
    mask = torch.cat((mask, torch.ones(3, 3)), dim=1)
    wanted = [logits[-3:] for logits in alone(model, tokens, mask)]
    assert_real_rows(model.head(torch.cat(parts, dim=1)), torch.ones(3, 3), wanted)


@pytest.mark.parametrize("name", ["F", "W", "G", "B", "loops"])
@torch.no_grad()
def test_ragged_turn_after_rows_without_padding(name: str) -> None:
    model, cache = model_of(name), DecodeCache()
    mask = torch.cat((torch.ones(3, 9), mask_of("right", 1, 6), mask_of("middle", 2, 6)), dim=1)
    tokens = torch.randint(37, mask.shape)
    parts = [model(tokens[:, :9], cache=cache)]
    for start in (9, 15):
        parts.append(model(tokens[:, start : start + 6], attention_mask=mask[:, : start + 6], cache=cache))
    assert_real_rows(model.head(torch.cat(parts, dim=1)), mask, alone(model, tokens, mask))


@pytest.mark.parametrize("name", ["W", "G", "S", "B", "loops"])
@torch.no_grad()
def test_beams_of_padded_rows(name: str) -> None:
    model, cache = model_of(name), DecodeCache()
    mask, tokens = mask_of("right", 0, 9), torch.randint(37, (3, 10))
    beams = torch.tensor([2, 0, 0])
    model(tokens[:, :9], attention_mask=mask, cache=cache)
    cache.reorder_cache(beams)
    cache.batch_repeat_interleave(2)
    chosen = beams.repeat_interleave(2)
    mask = torch.cat((mask[chosen], torch.ones(6, 1)), dim=1)
    tokens = torch.cat((tokens[chosen, :9], torch.randint(37, (6, 1))), dim=1)
    result = model.head(model(tokens[:, 9:], attention_mask=mask, cache=cache))
    assert_real_rows(result, torch.ones(6, 1), [row[-1:] for row in alone(model, tokens, mask)])


@pytest.mark.parametrize("name", ["W", "G"])
@torch.no_grad()
def test_given_positions_move_with_their_tokens(name: str) -> None:
    model = model_of(name)
    mask = mask_of("middle", 0, 9)
    tokens = torch.randint(37, (3, 9))
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    plain = model(tokens, attention_mask=mask)
    given = model(tokens, attention_mask=mask, positions=positions)
    assert torch.equal(plain[mask.bool()], given[mask.bool()])


@pytest.mark.parametrize("name", ["F", "G", "D", "S"])
def test_padding_gets_no_gradient_and_moves_none(name: str) -> None:
    model = model_of(name).double()
    mask = mask_of("middle", 0, 9)
    h = torch.randn(3, 9, 24, dtype=torch.float64, requires_grad=True)
    (model(None, embeddings=h, attention_mask=mask) * mask[..., None]).sum().backward()
    assert h.grad is not None
    assert not h.grad[mask == 0].any()
    assert h.grad[mask == 1].abs().amax(-1).min() > 0
    for row, real in zip(range(3), mask.bool(), strict=True):
        single = h[row, real][None].detach().requires_grad_()
        model(None, embeddings=single).sum().backward()
        assert single.grad is not None
        torch.testing.assert_close(h.grad[row, real], single.grad[0])


@torch.no_grad()
def test_a_mask_that_does_not_fit_is_refused() -> None:
    model = model_of("G")
    tokens = torch.randint(37, (2, 5))
    for wrong in (torch.zeros(2, 4), torch.zeros(1, 5), torch.zeros(5), torch.zeros(2, 1, 5, 5)):
        with pytest.raises(ValueError, match=r"attention_mask: must have the shape \(2, 5\)"):
            model(tokens, attention_mask=wrong)
    padded = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    for before, after in ((padded, torch.ones(2, 5)), (torch.ones(2, 5), padded), (None, padded)):
        cache = DecodeCache()
        model(tokens, attention_mask=before, cache=cache)
        with pytest.raises(ValueError, match="attention_mask: must be for cached tokens what it was"):
            model(tokens, attention_mask=torch.cat((after, torch.ones(2, 5)), dim=1), cache=cache)
        with pytest.raises(ValueError, match=r"must have the shape \(2, 10\)"):
            model(tokens, attention_mask=torch.ones(2, 5), cache=cache)


def test_nothing_is_moved_without_need() -> None:
    ones = torch.ones(2, 6)
    assert read_padding(None, None, 2, 0, 6) is None
    assert read_padding(ones, None, 2, 0, 6) is None
    assert read_padding(ones, None, 2, 4, 2) is None
    left = ones.clone()
    left[0, :3] = 0
    for past in (0, 5):  # a prefill, and a decoded token after it
        padding = read_padding(left, left[:, :past].bool() if past else None, 2, past, 6 - past)
        assert padding is not None
        assert padding.order is None
        assert padding.gap is None
        assert torch.equal(padding.real, left.bool())


def test_gaps_are_closed() -> None:
    whole = torch.tensor([[1, 2, 3, 0, 4], [1, 2, 3, 4, 5], [1, 2, 3, 0, 0]])
    result = close_gaps(whole, 2, torch.tensor([[1], [0], [2]]), dim=1)
    assert result[0, 1:].tolist() == [1, 2, 3, 4]
    assert result[1].tolist() == [1, 2, 3, 4, 5]
    assert result[2, 2:].tolist() == [1, 2, 3]
    deep = whole[:, None, :, None].expand(3, 2, 5, 3)
    assert torch.equal(close_gaps(deep, 2, torch.tensor([[1], [0], [2]]), dim=2)[:, 1, :, 2], result)
