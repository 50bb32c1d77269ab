"""The HDPL kernels translated for an H100, with or without one: what the interpreter can't show.

Needs Triton, not interpreted; no device.
"""

from __future__ import annotations

import os
from typing import Any

import pytest

from surgery.kernels import AVAILABLE, block_size
from surgery.projections.hdpl import latent_triton, narrow_triton, paths_triton

pytestmark = pytest.mark.skipif(
    not AVAILABLE or os.environ.get("TRITON_INTERPRET") == "1", reason="needs Triton, not interpreted"
)

Launch = tuple[Any, tuple[Any, ...], dict[str, Any]]


class Recorder:
    """Stands in for a kernel and keeps how it was launched."""

    def __init__(self, kernel: Any, launches: list[Launch]) -> None:
        self.kernel, self.launches = kernel, launches

    def __getitem__(self, grid: Any) -> Any:
        return lambda *tensors, **options: self.launches.append((self.kernel, tensors, options))


def recorded(
    monkeypatch: pytest.MonkeyPatch, dims: tuple[int, int, int], blocks: int, rank: int
) -> list[Launch]:
    """Every launch for siblings (d_in, count, d_out) of a few bfloat16 tokens, kernels not run."""
    import torch

    launches: list[Launch] = []
    for module, names in (
        (latent_triton, ("sample_latents", "sample_latents_back")),
        (paths_triton, ("write_output",)),
        (narrow_triton, ("back_to_input", "back_to_weights")),
    ):
        for name in names:
            monkeypatch.setattr(module, name, Recorder(getattr(module, name), launches))
    d_in, count, d_out = dims

    def empty(*shape: int) -> torch.Tensor:
        return torch.zeros(shape, dtype=torch.bfloat16)

    tokens, width = 64, count * rank
    x, d_ys = empty(tokens, d_in), [empty(tokens, d_out) for _ in range(count)]
    parts = [empty(blocks, d_out // blocks, d_in // blocks) for _ in range(count)]
    decoders = [empty(d_out, rank) for _ in range(count)]
    key, ranks, forms = torch.zeros(1, dtype=torch.int64), [rank] * count, [1] * count
    latents = empty(tokens, 2 * width)
    latent_triton.sample_fused(latents, key, ranks, forms)
    latent_triton.sample_back_fused(latents, key, ranks, forms, empty(tokens, width), torch.zeros(width))
    h = empty(tokens, width)
    paths_triton.output_fused(x, h.split(rank, 1)[0], parts[0], decoders[0], None)
    if max(d_in // blocks, rank) <= narrow_triton.WIDEST:
        narrow_triton.input_gradients_narrow(d_ys, parts, decoders)
        narrow_triton.weight_gradients_narrow(x, h, d_ys, parts)
    return launches


def translated(kernel: Any, tensors: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """The kernel as just-in-time compilation would make it for these arguments on an H100."""
    import torch
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    dtypes = {torch.bfloat16: "*bf16", torch.float32: "*fp32", torch.int64: "*i64"}
    names = list(kernel.arg_names)
    given = dict(zip(names, tensors, strict=False)) | {k: v for k, v in options.items() if k in names}
    constants = {name: value for name, value in given.items() if name.isupper() or name[:-1].isupper()}
    signature, attributes = {}, {}
    for place, name in enumerate(names):
        value = given[name]
        if name in constants:
            signature[name] = "constexpr"
        elif isinstance(value, torch.Tensor):
            signature[name], attributes[(place,)] = dtypes[value.dtype], [["tt.divisibility", 16]]
        else:
            signature[name] = "fp32" if isinstance(value, float) else "i32"
            if isinstance(value, int) and value % 16 == 0:
                attributes[(place,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, {(names.index(k),): v for k, v in constants.items()}, attributes)
    launch = {name: options[name] for name in ("num_warps", "num_stages")}
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=launch)


@pytest.mark.parametrize(
    ("dims", "rank"),
    [((512, 3, 512), 128), ((1024, 2, 4096), 128), ((2048, 2, 8192), 512), ((24, 3, 40), 9)],
    ids=str,
)
def test_kernels_translate_and_fit(
    monkeypatch: pytest.MonkeyPatch, dims: tuple[int, int, int], rank: int
) -> None:
    for kernel, tensors, options in recorded(monkeypatch, dims, 8, rank):
        made = translated(kernel, tensors, options)
        assert made.metadata.shared <= paths_triton.SHARED_BYTES, kernel.__name__
        if "tl.dot" in kernel.src and block_size(rank) > 16:  # products run on the tensor cores' own units
            assert "wgmma.mma_async" in made.asm["ptx"]
