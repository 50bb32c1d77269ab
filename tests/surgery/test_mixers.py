"""The contract of every token mixer, seen through a model of it alone; a new one is covered by its line."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from surgery.architecture.costs import cost
from surgery.context import DecodeCache
from surgery.mixers import MIXER_WORDS, MIXERS
from surgery.model import HybridLM
from tests.models import architecture, build, decode
from tests.strategies import mixer_options

LENGTHS = [1, 2, 3, 7, 16, 31, 64, 65, 100, 130]
BACKBONES = {
    "grouped": {"num_heads": 4, "num_kv_heads": 2},
    "one kv head, norms, biases": {"num_kv_heads": 1, "qk_norm": True, "biases": ["q", "k", "v", "o"]},
    "plain": {"num_kv_heads": 4, "head_dim": 8, "rope_theta": 500000},
}
# Rounding tips a close choice over, and another token is another output: near only where all are taken.
SELECT_ALL = {"S": {"top_k": 256}, "B": {"blocks": 256}}


def cases() -> list[Any]:
    result = []
    for letter in MIXERS:
        for index, (label, backbone) in enumerate(BACKBONES.items()):
            fitting = mixer_options(letter, architecture(**backbone).backbone)
            options = fitting[index * (len(fitting) - 1) // (len(BACKBONES) - 1)]
            result.append(pytest.param(letter, options, backbone, id=f"{letter}-{label}"))
    return result


every_mixer = pytest.mark.parametrize(("letter", "options", "backbone"), cases())


def model_of(letter: str, options: dict[str, Any], backbone: dict[str, Any], **more: Any) -> HybridLM:
    return build(architecture(letter, mixers={letter: options}, **backbone, **more), spread=0.2)


@every_mixer
def test_decoding_token_by_token_equals_one_pass(
    letter: str, options: dict[str, Any], backbone: dict[str, Any]
) -> None:
    model = model_of(letter, options, backbone, num_layers=1)
    tokens = torch.randint(37, (2, LENGTHS[-1]))
    with torch.no_grad():
        decoded = decode(model, tokens, [1] * LENGTHS[-1])
        for length in LENGTHS:
            torch.testing.assert_close(decoded[:, :length], model(tokens[:, :length]), rtol=1e-4, atol=1e-4)


@every_mixer
@pytest.mark.parametrize("sizes", [[65], [64, 1], [1, 64], [10, 1, 1, 30, 23], [33, 32], [5] * 13])
def test_prefill_in_pieces_equals_one_pass(
    letter: str, options: dict[str, Any], backbone: dict[str, Any], sizes: list[int]
) -> None:
    model = model_of(letter, options, backbone)
    tokens = torch.randint(37, (2, 65))
    cache = DecodeCache()
    with torch.no_grad():
        torch.testing.assert_close(decode(model, tokens, sizes, cache), model(tokens), rtol=1e-4, atol=1e-4)
    assert cache.length == cache.get_seq_length() == 65


@every_mixer
@pytest.mark.parametrize("training", [False, True])
def test_no_token_sees_the_future(
    letter: str, options: dict[str, Any], backbone: dict[str, Any], training: bool
) -> None:
    model = model_of(letter, options, backbone).train(training)
    h = torch.randn(1, 70, 24)
    for change in (0, 1, 33, 69):
        other = h.clone()
        other[:, change:] += torch.randn(1, 70 - change, 24)
        one, two = model(None, embeddings=h), model(None, embeddings=other)
        torch.testing.assert_close(one[:, :change], two[:, :change], rtol=0, atol=1e-6)
        assert (one[:, change:] - two[:, change:]).abs().amax(-1).min() > 1e-4
    h.requires_grad_()
    model(None, embeddings=h)[:, 33].sum().backward()
    assert h.grad is not None
    assert not h.grad[:, 34:].any()


@every_mixer
def test_sequences_of_a_batch_do_not_meet(
    letter: str, options: dict[str, Any], backbone: dict[str, Any]
) -> None:
    model = model_of(letter, options, backbone)
    tokens = torch.randint(37, (4, 19))
    order = torch.tensor([2, 0, 3, 1])
    with torch.no_grad():
        together = model(tokens)
        torch.testing.assert_close(model(tokens[order]), together[order], rtol=1e-5, atol=1e-5)
        for row in range(4):
            torch.testing.assert_close(model(tokens[row : row + 1])[0], together[row], rtol=1e-5, atol=1e-5)


@every_mixer
def test_left_padding_changes_no_real_token(
    letter: str, options: dict[str, Any], backbone: dict[str, Any]
) -> None:
    model = model_of(letter, options, backbone)
    lengths = [17, 9, 1]
    rows = [torch.randint(37, (length,)) for length in lengths]
    tokens = torch.stack([torch.cat((torch.randint(37, (17 - len(row),)), row)) for row in rows])
    mask = torch.stack([(torch.arange(17) >= 17 - length).long() for length in lengths])
    with torch.no_grad():
        for padded in (
            model(tokens, attention_mask=mask),
            decode(model, tokens, [17], attention_mask=mask),
            decode(model, tokens, [1] * 17, attention_mask=mask),
            decode(model, tokens, [5, 1, 11], attention_mask=mask),
        ):
            assert torch.isfinite(padded).all()
            for row, alone in enumerate(rows):
                torch.testing.assert_close(
                    padded[row, 17 - len(alone) :], model(alone[None])[0], rtol=1e-4, atol=1e-4
                )


@every_mixer
def test_a_beam_can_be_reordered(letter: str, options: dict[str, Any], backbone: dict[str, Any]) -> None:
    model = model_of(letter, options, backbone)
    tokens = torch.randint(37, (3, 9))
    beams = torch.tensor([2, 2, 0])
    with torch.no_grad():
        cache = DecodeCache()
        decode(model, tokens[:, :8], [8], cache)
        cache.reorder_cache(beams)
        torch.testing.assert_close(
            model(tokens[:, 8:], cache=cache)[:, 0],
            model(torch.cat((tokens[beams, :8], tokens[:, 8:]), dim=1))[:, -1],
            rtol=1e-4, atol=1e-4,
        )  # fmt: skip
        cache.batch_repeat_interleave(2)
        rows = {tensor.shape[0] for state in cache.states.values() for tensor in state}
        assert rows == ({6} if MIXERS[letter].mixes else set())  # without mixing nothing is cached


@every_mixer
def test_cache_bytes_are_those_announced(
    letter: str, options: dict[str, Any], backbone: dict[str, Any]
) -> None:
    model = model_of(letter, options, backbone, loops=2).bfloat16()
    tokens = torch.randint(37, (3, 65))
    grown = DecodeCache()
    with torch.no_grad():
        for context in range(1, 66):
            model(tokens[:, context - 1 : context], cache=grown)
            expected = 3 * cost(model.architecture, f"cache_bytes@{context}")
            assert grown.bytes == expected, context
            if context in (1, 5, 64, 65):
                filled = DecodeCache()
                decode(model, tokens[:, :context], [context], filled)
                assert filled.bytes == expected, context


@every_mixer
def test_bfloat16_is_finite_and_near(letter: str, options: dict[str, Any], backbone: dict[str, Any]) -> None:
    """Most tokens: where a first query and key are nearly orthogonal, rounding may change the sign of their
    product, which is all that the norm of a linear mixer's output leaves of it."""
    model = model_of(letter, options | SELECT_ALL.get(letter, {}), backbone)
    half = copy.deepcopy(model).bfloat16()
    tokens = torch.randint(37, (5, 65))
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        stepped = decode(model, tokens, [1] * 65)
    for length in (1, 3, 64, 65):
        exact = model.eval()(tokens[:, :length])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            cast = model.train()(tokens[:, :length])
            cast.sum().backward()
        low = half(tokens[:, :length])
        assert low.dtype == torch.bfloat16
        for y in (cast, low, stepped[:, :length]):
            assert torch.isfinite(y).all()
            assert ((y.float() - exact).norm(dim=-1) / exact.norm(dim=-1)).median() < 0.1


@every_mixer
def test_every_parameter_learns(letter: str, options: dict[str, Any], backbone: dict[str, Any]) -> None:
    model = model_of(letter, options, backbone).train()
    loss, auxiliary = model.loss(torch.randint(37, (2, 21)), torch.randint(37, (2, 21)))
    (loss + auxiliary).backward()
    silent = [
        name for name, parameter in model.named_parameters()
        if parameter.grad is None or not torch.isfinite(parameter.grad).all() or not parameter.grad.any()
    ]  # fmt: skip
    assert bool(silent) == bool(MIXERS[letter].warning(options)), (
        silent
    )  # options that silence it have a warning


@every_mixer
def test_gradients_in_double_precision(
    letter: str, options: dict[str, Any], backbone: dict[str, Any]
) -> None:
    model = model_of(letter, options, backbone, num_layers=1).double()
    h = torch.randn(1, 7, 24, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: model(None, embeddings=x), (h,), fast_mode=True)


@every_mixer
def test_mean_of_mixing_is_the_mean(letter: str, options: dict[str, Any], backbone: dict[str, Any]) -> None:
    arch = architecture(letter, mixers={letter: options}, **backbone)
    spec = MIXERS[letter]
    for length in LENGTHS:
        each = [spec.mixing_flops(arch.backbone, options, seen + 1) for seen in range(length)]
        assert spec.mean_mixing_flops(arch.backbone, options, length) == pytest.approx(
            sum(each) / length, rel=1e-12
        )


@every_mixer
def test_parameters_and_step_flops_are_those_announced(
    letter: str, options: dict[str, Any], backbone: dict[str, Any]
) -> None:
    model = model_of(letter, options, backbone)
    arch = model.architecture
    assert sum(p.numel() for p in model.parameters()) == cost(arch, "params")
    cache = DecodeCache()
    math = torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)
    with torch.no_grad(), math:
        decode(model, torch.randint(37, (1, 40)), [40], cache)
        with FlopCounterMode(display=False) as counter:
            model.head(model(torch.randint(37, (1, 1)), cache=cache))
    assert counter.get_total_flops() == cost(arch, "decode_flops@41")


def test_letters_and_words_are_each_one_mixers() -> None:
    assert list(MIXERS) == ["F", "G", "D", "W", "S", "K", "B", "R", "M", "H", "N"]
    assert len(set(MIXER_WORDS.values())) == len(MIXERS)
