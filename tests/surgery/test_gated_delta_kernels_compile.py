"""The Gated DeltaNet kernels translated for an H100, with or without one: what the interpreter lets pass.

Needs Triton, not interpreted; no device.
"""

from __future__ import annotations

import pytest
import torch

from surgery.mixers.delta import short_conv_triton
from surgery.mixers.gdn import fused, gated_norm_triton, scan_triton
from surgery.mixers.gdn.sizes import DeltaSizes
from tests.surgery.on_triton import TRANSLATES
from tests.surgery.translation import Launch, Recorder, translated

pytestmark = TRANSLATES
MOST_SHARED = 227 * 1024  # bytes, of an H100's multiprocessor


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize(
    ("key", "value", "decay"), [(32, 64, True), (64, 64, False), (24, 48, True), (128, 128, True)]
)
def test_kernels_translate_and_fit(
    monkeypatch: pytest.MonkeyPatch, key: int, value: int, decay: bool, dtype: torch.dtype
) -> None:
    launches: list[Launch] = []
    for module, names in (
        (fused, ("prepare", "read", "read_back", "prepare_back")),
        (scan_triton, ("_scan",)),
        (short_conv_triton, ("convolve", "convolve_back", "spread_back")),
        (gated_norm_triton, ("normalise", "normalise_back")),
    ):
        for name in names:
            monkeypatch.setattr(module, name, Recorder(getattr(module, name), launches))
    heads, tokens = 2, 96
    sizes = DeltaSizes(64, heads, key, value, 4, True, decay, False)

    def given(*shape: int, dtype: torch.dtype = dtype) -> torch.Tensor:
        return torch.zeros(shape, dtype=dtype, requires_grad=True)

    x, weight = given(1, tokens, sizes.channels), given(sizes.channels, 1, 4, dtype=torch.float32)
    qkv = short_conv_triton.ShortConv.apply(x, weight, 0)
    exact = torch.float32
    g = given(1, tokens, heads, dtype=exact) if decay else None
    beta, state = given(1, tokens, heads, dtype=exact), given(1, heads, key, value, dtype=exact)
    y, after = fused.FusedDelta.apply(qkv, g, beta, state, sizes)
    gate, norm = given(1, tokens, heads, value), given(value, dtype=exact)
    out = gated_norm_triton.GatedNorm.apply(y, gate, norm, 1e-6)
    (out.float().sum() + after.sum()).backward()
    assert len(launches) == 11  # those named above, the scan twice
    for kernel, tensors, options in launches:
        made = translated(kernel, tensors, options)
        assert made.metadata.shared <= MOST_SHARED, kernel.__name__
