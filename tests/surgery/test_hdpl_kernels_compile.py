"""The HDPL kernels translated for an H100, with or without one: what the interpreter can't show.

Needs Triton, not interpreted; no device.
"""

from __future__ import annotations

import pytest

from surgery.ops.kernels import block_size
from surgery.projections.hdpl import (
    adding_triton,
    back_triton,
    latent_triton,
    outputs_triton,
    weights_triton,
)
from surgery.projections.hdpl.kl import Terms
from surgery.projections.hdpl.tiles import SHARED_BYTES
from tests.surgery.on_triton import TRANSLATES
from tests.surgery.translation import Launch, Recorder, translated

pytestmark = TRANSLATES

H100_SHARED = 227 * 1024  # bytes of shared memory that a block of threads can have there


def recorded(
    monkeypatch: pytest.MonkeyPatch, dims: tuple[int, int, int], blocks: int, rank: int
) -> list[Launch]:
    """Every launch for siblings (d_in, count, d_out) of a few bfloat16 tokens, kernels not run."""
    import torch

    launches: list[Launch] = []
    for module, names in (
        (latent_triton, ("sample_latents", "sample_latents_back", "add_up_kl")),
        (adding_triton, ("add_up_parts",)),
        (outputs_triton, ("write_outputs", "write_narrow_outputs")),
        (back_triton, ("pack_blocks", "write_siblings_back")),
        (weights_triton, ("back_to_weights",)),
    ):
        for name in names:
            monkeypatch.setattr(module, name, Recorder(getattr(module, name), launches))
    for module in (outputs_triton, weights_triton):
        monkeypatch.setattr(module, "shared_memory_bytes", lambda device: H100_SHARED)
    d_in, count, d_out = dims

    def empty(*shape: int) -> torch.Tensor:
        return torch.zeros(shape, dtype=torch.bfloat16)

    tokens, width = 64, count * rank
    x, d_ys = empty(tokens, d_in), [empty(tokens, d_out) for _ in range(count)]
    parts = [empty(blocks, d_out // blocks, d_in // blocks) for _ in range(count)]
    decoders = [empty(d_out, rank) for _ in range(count)]
    key, ranks = torch.zeros(1, dtype=torch.int64), [rank] * count
    latents, terms = empty(tokens, 2 * width), Terms([1, 2, 3][:count], [1.0] * count)
    _, loss, slopes = latent_triton.sample_fused(latents, key, ranks, terms)
    d_h = empty(tokens, width)
    _, _, shifts = latent_triton.sample_back_fused(latents, key, ranks, terms, d_h, loss, slopes)
    hs = empty(tokens, width).split(rank, 1)
    outputs_triton.outputs_fused(x, hs, parts, decoders, [None] * count)
    monkeypatch.setattr(outputs_triton, "readable_by_tile", lambda *_: False)
    outputs_triton.outputs_fused(x, hs, parts, decoders, [None] * count)
    if back_triton.fits_blocks(parts):
        back_triton.through_blocks_fused(d_ys, parts)
        if back_triton.fits_decoders(ranks):
            back_triton.back_fused(d_ys, parts, decoders, latents, key, terms, loss, slopes)
    if weights_triton.fits_weights(parts):
        out = empty(2 * width + sum(part.numel() for part in (*parts, *decoders)))
        weights_triton.weight_gradients_fused(x, hs, d_ys, parts, shifts, out)
    return launches


@pytest.mark.parametrize(
    ("dims", "rank"),
    [
        ((512, 3, 512), 128),
        ((512, 2, 2048), 128),
        ((1024, 2, 4096), 128),
        ((2048, 2, 8192), 512),
        ((1408, 1, 512), 256),
        ((64, 3, 128), 8),
    ],
    ids=str,
)
def test_kernels_translate_and_fit(
    monkeypatch: pytest.MonkeyPatch, dims: tuple[int, int, int], rank: int
) -> None:
    for kernel, tensors, options in recorded(monkeypatch, dims, 8, rank):
        made = translated(kernel, tensors, options)
        asks = kernel.__name__ in ("write_narrow_outputs", "back_to_weights")  # how much there is
        most = H100_SHARED if asks else SHARED_BYTES
        assert made.metadata.shared <= most, kernel.__name__
        if "tl.dot" in kernel.src and block_size(rank) > 16:  # products run on the tensor cores' own units
            assert "wgmma.mma_async" in made.asm["ptx"]
