"""The kernels of HDPL against the same steps in plain torch, in double precision, with the same noise.

They run on CUDA, and anywhere else in Triton's interpreter (TRITON_INTERPRET=1, triton installed).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from surgery.projections.hdpl import (
    back_triton,
    latent,
    latent_triton,
    outputs_triton,
    paths,
    tiles,
    weights_triton,
)
from surgery.projections.hdpl.kl import FORMS, LN2, Terms
from surgery.projections.hdpl.module import HDPL
from surgery.projections.siblings import project
from tests.models import context
from tests.surgery.on_triton import DEVICE, DTYPES, INTERPRETED, RUNS, every_dtype
from tests.surgery.philox import normals

pytestmark = RUNS

SEED = -0x1234_5678_9ABC_DEF0


def draw(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64).to(DEVICE, dtype)


def close(mine: Tensor, theirs: Tensor, dtype: torch.dtype, what: str, roundings: int = 1) -> None:
    """`roundings`: how many in a row an error may come from."""
    assert mine.shape == theirs.shape, what
    error = (mine.double() - theirs).norm() / theirs.norm().clamp(min=1e-9)
    assert error < roundings * DTYPES[dtype], f"{what}: {error:.1e}"


def needs_products_of(dtype: torch.dtype) -> None:
    if INTERPRETED and dtype == torch.bfloat16:
        pytest.skip("Triton's interpreter multiplies bfloat16 matrices as if they were integers")


def sampled(tokens: int, ranks: list[int], seed: int, scale: float = 1.0) -> Tensor:
    """The noise that the kernel adds, seen through mu = 0, logvar = 2 log(scale): h = silu(noise scale)."""
    latents = torch.zeros(tokens, 2 * sum(ranks), device=DEVICE)
    latents[:, sum(ranks) :] = 2 * torch.tensor(scale).log()
    key = torch.tensor([seed], device=DEVICE)
    return latent_triton.sample_fused(latents, key, ranks, no_loss(len(ranks)))[0]


def no_loss(siblings: int) -> Terms:
    return Terms([0] * siblings, [0.0] * siblings)


@every_dtype
@pytest.mark.parametrize(
    ("tokens", "ranks", "forms"),
    [
        (1, [8], ["reference"]),
        (17, [8, 16, 8], ["mean", "reference", "free_bits"]),
        (17, [7, 33], ["", "mean"]),
        (70, [128, 128], ["reference", "reference"]),
        (130, [16, 512, 64, 9], ["free_bits", "mean", "", "reference"]),
        (2049, [32, 32, 32], ["free_bits", "free_bits", "free_bits"]),
    ],
)
def test_latents(tokens: int, ranks: list[int], forms: list[str], dtype: torch.dtype) -> None:
    torch.manual_seed(tokens)
    width = sum(ranks)
    terms = Terms([FORMS[form] for form in forms], [0.5 + index for index in range(len(forms))])
    latents = draw(tokens, 2 * width, dtype=dtype)
    quiet = torch.tensor([rank for rank in ranks for _ in range(rank)] * 2, device=DEVICE)
    latents[::2] /= 2 * quiet.sqrt()  # under the clamp of `reference`; the other tokens are above
    d_h, d_loss = draw(tokens, width, dtype=dtype), draw(1)[0]
    key = torch.tensor([SEED], device=DEVICE)
    noise = normals(SEED, tokens, width).to(DEVICE)
    exact = latents.double()
    wanted = latent.sample_plainly(exact, noise, ranks, terms)
    wanted += latent.sample_back_plainly(exact, noise, ranks, terms, d_h.double(), d_loss.double(), wanted[2])
    result = latent_triton.sample_fused(latents, key, ranks, terms)
    result += latent_triton.sample_back_fused(latents, key, ranks, terms, d_h.clone(), d_loss, result[2])
    for what, mine, theirs in zip(
        ("h", "loss", "slopes", "d_latents", "h again", "d_bias"), result, wanted, strict=True
    ):
        if what == "d_bias":  # of some tokens each
            close(mine.double().sum(0), theirs.sum(0), dtype, what)
        elif terms.wanted or what not in ("loss", "slopes"):
            # of a quiet latent the KL is what is left of a difference
            close(mine, theirs, torch.bfloat16 if what == "loss" else dtype, what)
    # each gradient of a small loss has its own size: mu and logvar of each sibling are compared alone too
    for mine, theirs in zip(
        result[3].split([*ranks, *ranks], 1), wanted[3].split([*ranks, *ranks], 1), strict=True
    ):
        close(mine, theirs, dtype, "part of d_latents")


def test_latents_can_be_spent() -> None:
    latents, d_h, loss = draw(33, 48), draw(33, 24), (draw(1)[0], draw(24))
    key = torch.tensor([SEED], device=DEVICE)
    rest = [8, 16], Terms([2, 1], [1.0, 1.0])
    kept = latent_triton.sample_back_fused(latents.clone(), key, *rest, d_h.clone(), *loss)
    overwritten = latent_triton.sample_back_fused(latents, key, *rest, d_h.clone(), *loss, inplace=True)
    assert overwritten[0] is latents
    for mine, theirs in zip(overwritten, kept, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0)


def test_above_the_clamp_there_is_no_gradient() -> None:
    latents = torch.zeros(6, 8, device=DEVICE)
    latents[3:, :4] = 1.0  # 2 nats/token
    key, d_h = torch.tensor([1], device=DEVICE), torch.zeros(6, 4, device=DEVICE)
    terms = Terms([FORMS["reference"]], [6.0])  # times the mean over tokens: the sum
    _, loss, slopes = latent_triton.sample_fused(latents, key, [4], terms)
    assert loss.item() == pytest.approx(3 * LN2, rel=1e-6)
    latents[:3, :4] = 0.1
    one = torch.ones((), device=DEVICE)
    d_latents, *_ = latent_triton.sample_back_fused(latents, key, [4], terms, d_h, one, slopes)
    torch.testing.assert_close(d_latents[:3, :4], torch.full((3, 4), 0.1, device=DEVICE))
    assert not d_latents[3:].any()


def test_the_noise_is_normal_and_independent() -> None:
    tokens, ranks = 4096, [16, 16]
    key = torch.tensor([7], device=DEVICE)
    latents = torch.zeros(tokens, 64, device=DEVICE)
    # d h at h = silu(z) gives z back: the gradient of logvar is d_z z / 2 where mu = 0, sigma = 1
    d_h = torch.ones(tokens, 32, device=DEVICE)
    d_latents, *_ = latent_triton.sample_back_fused(latents, key, ranks, no_loss(2), d_h, d_h[0, 0], d_h[0])
    z = (2 * d_latents[:, 32:] / d_latents[:, :32]).cpu().double()
    torch.testing.assert_close(z, normals(7, tokens, 32), rtol=1e-3, atol=1e-4)
    count = z.numel()
    assert abs(z.mean()) < 5 / count**0.5
    assert abs(z.var() - 1) < 5 * (2 / count) ** 0.5
    assert abs(z.pow(3).mean()) < 5 * (15 / count) ** 0.5
    assert abs(z.pow(4).mean() - 3) < 5 * (96 / count) ** 0.5
    bound = 6 / tokens**0.5  # of a correlation, for all pairs looked at
    between = torch.corrcoef(z.T) - torch.eye(32)  # latents, also of different siblings
    assert between.abs().max() < bound
    for lag in (1, 2, 3, 4, 64):  # tokens
        assert ((z[lag:] * z[:-lag]).mean(0)).abs().max() < bound
    assert abs((z[:, :16] * z[:, 16:]).mean()) < 6 / (count / 2) ** 0.5


def test_seeds_give_their_own_noise_and_the_same_again() -> None:
    first, again, other = (sampled(512, [32], seed) for seed in (5, 5, 5 + 2**32))
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    correlation = torch.corrcoef(torch.stack((first.flatten(), other.flatten())))[0, 1]
    assert abs(correlation) < 5 / first.numel() ** 0.5
    torch.testing.assert_close(sampled(70, [32], 5), first[:70])  # a token's noise is its own


every_shape = pytest.mark.parametrize(
    ("tokens", "blocks", "rows", "columns", "ranks"),
    [
        (1, 1, [8], 24, [8]),
        (17, 64, [24, 16], 8, [16, 16]),
        (130, 8, [64, 16, 16], 64, [128, 128, 128]),  # tiles span two blocks, and eight in part
        (257, 2, [104, 104, 136], 128, [24, 24, 24]),
        (2049, 4, [16, 32], 16, [32, 8]),
        (130, 3, [48, 48], 40, [24, 24]),  # spans that do not divide the blocks
        (70, 2, [160, 96], 200, [136, 136]),
        (65, 2, [256, 256], 16, [16, 16]),  # whole blocks of 256 rows
    ],
)


@dataclass
class Siblings:
    """Random siblings, and a step's tensors."""

    x: Tensor
    h: Tensor
    d_ys: list[Tensor]
    blocks: list[Tensor]
    decoders: list[Tensor]
    biases: list[Tensor | None]
    d_latents: Tensor
    encoders: Tensor
    ranks: list[int]

    @property
    def hs(self) -> Sequence[Tensor]:
        return self.h[:, 8:].split(self.ranks, dim=1)

    def exactly(self) -> Siblings:
        def exact(value: Any) -> Any:
            if isinstance(value, Tensor):
                return value.double()
            return [exact(part) for part in value] if isinstance(value, list) else value

        return Siblings(**{field.name: exact(getattr(self, field.name)) for field in fields(self)})


def siblings(
    tokens: int, n: int, rows: list[int], columns: int, ranks: list[int], dtype: torch.dtype
) -> Siblings:
    torch.manual_seed(tokens)
    latents = 2 * sum(ranks)
    return Siblings(
        x=draw(tokens, n * columns, dtype=dtype),
        h=draw(tokens, 8 + sum(ranks), dtype=dtype),
        d_ys=[draw(tokens, n * count, dtype=dtype) for count in rows],
        blocks=[draw(n, count, columns, dtype=dtype) for count in rows],
        decoders=[draw(n * count, rank, dtype=dtype) for count, rank in zip(rows, ranks, strict=True)],
        biases=[draw(n * count, dtype=dtype) if index != 1 else None for index, count in enumerate(rows)],
        d_latents=draw(tokens, latents, dtype=dtype),
        encoders=draw(latents, n * columns, dtype=dtype),
        ranks=ranks,
    )


@every_dtype
@every_shape
@pytest.mark.parametrize("by_tile", [True, False])
def test_outputs(
    tokens: int,
    blocks: int,
    rows: list[int],
    columns: int,
    ranks: list[int],
    by_tile: bool,
    dtype: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    needs_products_of(dtype)
    if not by_tile:
        monkeypatch.setattr(outputs_triton, "readable_by_tile", lambda *_: False)
    of = siblings(tokens, blocks, rows, columns, ranks, dtype)
    result = outputs_triton.outputs_fused(of.x, of.hs, of.blocks, of.decoders, of.biases)
    of = of.exactly()
    for *weights, mine in zip(of.hs, of.blocks, of.decoders, of.biases, result, strict=True):
        close(mine, paths.output_plainly(of.x, *weights), dtype, "y")


@every_dtype
@every_shape
def test_back_through_the_blocks(
    tokens: int, blocks: int, rows: list[int], columns: int, ranks: list[int], dtype: torch.dtype
) -> None:
    needs_products_of(dtype)
    of = siblings(tokens, blocks, rows, columns, ranks, dtype)
    result = back_triton.through_blocks_fused(of.d_ys, of.blocks)
    of = of.exactly()
    close(result, paths.through_blocks_plainly(of.d_ys, of.blocks), dtype, "d_x")


@every_dtype
@every_shape
@pytest.mark.parametrize("inplace", [False, True])
def test_back(
    tokens: int,
    blocks: int,
    rows: list[int],
    columns: int,
    ranks: list[int],
    inplace: bool,
    dtype: torch.dtype,
) -> None:
    needs_products_of(dtype)
    if not back_triton.fits_decoders(ranks):
        pytest.skip("too wide a rank")
    of = siblings(tokens, blocks, rows, columns, ranks, dtype)
    forms = [FORMS[form] for form in ("reference", "mean", "free_bits")]
    terms = Terms(forms[: len(rows)], [0.5, 1.5, 2.5][: len(rows)])
    latents, d_loss, slopes = of.d_latents, draw(1)[0], draw(sum(ranks))
    latents[::2] /= 16  # under the clamp of `reference`
    noise = normals(SEED, tokens, sum(ranks)).to(DEVICE)
    exact = of.exactly()
    rest = terms, d_loss.double(), slopes.double(), False
    wanted = paths.back(exact.d_ys, exact.blocks, exact.decoders, latents.double(), noise, *rest)
    key = torch.tensor([SEED], device=DEVICE)
    result = back_triton.back_fused(
        of.d_ys, of.blocks, of.decoders, latents, key, terms, d_loss, slopes, inplace
    )
    assert (result[0] is latents) == inplace
    for what, mine, theirs in zip(("d_latents", "h", "d_bias", "d_x"), result, wanted, strict=True):
        if what == "d_bias":  # of some tokens each
            close(mine.double().sum(0), theirs.sum(0), dtype, what, roundings=2)
        else:
            close(mine, theirs, dtype, what, roundings=2)


@every_dtype
@every_shape
def test_gradients_of_weights(
    tokens: int, blocks: int, rows: list[int], columns: int, ranks: list[int], dtype: torch.dtype
) -> None:
    needs_products_of(dtype)
    of = siblings(tokens, blocks, rows, columns, ranks, dtype)
    shifts = draw(37, 24)
    sizes = [24, *(part.numel() for part in (*of.blocks, *of.decoders))]
    out = of.x.new_empty(sum(sizes))
    weights_triton.weight_gradients_fused(of.x, of.hs, of.d_ys, of.blocks, shifts, out)
    shift, *result = out.split(sizes)
    close(shift, shifts.double().sum(0), dtype, "sum of the shifts")
    of = of.exactly()
    exactly = paths.weight_gradients_plainly(of.x, of.hs, of.d_ys, of.blocks)
    for index, (one, other) in enumerate(zip(result, [*exactly[0], *exactly[1]], strict=True)):
        close(one.view_as(other), other, dtype, f"weights {index}")


@every_dtype
@pytest.mark.parametrize(
    ("tokens", "d", "blocks", "rank"),
    [(1, 16, 1, 8), (17, 512, 64, 16), (9, 64, 64, 11), (2049, 64, 8, 128), (33, 320, 2, 512)],
)
def test_the_whole_group(tokens: int, d: int, blocks: int, rank: int, dtype: torch.dtype) -> None:
    """Through whatever kernels fit, from float32 weights under autocast where in bfloat16: outputs, losses
    and every gradient. In the interpreter all kernels are made to fit that take such sizes."""
    needs_products_of(dtype)
    torch.manual_seed(tokens)
    modules = [
        HDPL(d, count * d, blocks=blocks, rank=rank, kl_weight=1.0, kl=form, bias=form == "mean").to(DEVICE)
        for count, form in ((1, "reference"), (2, "mean"), (1, "free_bits"))
    ]
    for module in modules:  # mean KL well above the floor of `free_bits`, sums above the clamp: no edge near
        nn.init.normal_(module.logvar.weight, std=0.3 / d**0.5)
        nn.init.normal_(module.logvar.bias, std=0.3)
    x = draw(tokens, d, dtype=dtype).requires_grad_()
    seeds: list[Tensor] = []

    def seeded(*_: object) -> Tensor:
        seeds.append(latent_triton.draw_seed(torch.device(DEVICE)))
        return seeds[-1]

    here = context()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("surgery.projections.hdpl.group.draw", seeded)
        if INTERPRETED:
            patch.setattr(paths, "fits_tiles", lambda x, *sizes: tiles.fit_units(*sizes))
        with torch.autocast(DEVICE, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            result = [*project(x, here, *modules), *here.losses]
        weights = [torch.randn_like(value) for value in result]
        leaves = [x, *nn.ModuleList(modules).parameters()]
        gradients = torch.autograd.grad(result, leaves, weights, retain_graph=True)
        again = torch.autograd.grad(result, leaves, weights)
    for first, second in zip(gradients, again, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-6)

    noise = normals(int(seeds[0]), tokens, 3 * rank).to(DEVICE)
    exact_x = x.detach().double().requires_grad_()
    every = nn.ModuleList(modules).double()
    wanted, total = [], torch.zeros((), dtype=torch.float64, device=DEVICE)
    for module, eps in zip(modules, noise.split(rank, dim=1), strict=True):
        both = torch.cat((module.mu(exact_x), module.logvar(exact_x)), dim=1)
        h, loss, _ = latent.sample_plainly(both, eps, [rank], Terms([FORMS[module.kl]], [1.0]))
        low_rank = nn.functional.linear(h, module.decoder.weight, module.bias)
        wanted.append(paths.block_diagonal(exact_x, module.blocks) + low_rank)
        total = total + loss
    exact = [*wanted, total]
    exact_leaves = [exact_x, *every.parameters()]
    expected = torch.autograd.grad(exact, exact_leaves, [weight.double() for weight in weights])
    for what, mine, theirs in zip(range(len(result)), result, exact, strict=True):
        close(mine, theirs, dtype, f"value {what}", roundings=3)
    for what, mine, theirs in zip(["x", *dict(every.named_parameters())], gradients, expected, strict=True):
        close(mine, theirs, dtype, f"gradient of {what}", roundings=3)


@every_dtype
def test_compiled_it_is_the_same(dtype: torch.dtype) -> None:
    """Compiled as operators, which must not return parts of one tensor."""
    needs_products_of(dtype)
    modules = [HDPL(64, 64, blocks=4, rank=16, kl_weight=0.5, kl="mean").to(DEVICE, dtype) for _ in range(3)]
    x = draw(65, 64, dtype=dtype).requires_grad_()

    def run() -> list[Tensor]:
        here = context()
        return [*project(x, here, *modules), *here.losses]

    weights = [draw(65, 64, dtype=dtype) for _ in modules] + [draw(1)[0]]
    leaves = [x, *nn.ModuleList(modules).parameters()]
    runs = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latent, "fits_latents", lambda *_: True)
        if INTERPRETED:
            patch.setattr(paths, "fits_tiles", lambda x, *sizes: tiles.fit_units(*sizes))
        for form in (run, torch.compile(run, backend="aot_eager", fullgraph=True)):
            torch.manual_seed(3)
            values = form()
            runs.append([*values, *torch.autograd.grad(values, leaves, weights)])
    for mine, theirs in zip(*runs, strict=True):
        close(mine, theirs.double(), dtype, "compiled")


@every_dtype
def test_evaluation(dtype: torch.dtype) -> None:
    """Many tokens without gradients, the siblings of different widths."""
    needs_products_of(dtype)
    modules = [HDPL(64, 64 * n, blocks=4, rank=24, kl_weight=1.0, kl="mean").to(DEVICE) for n in (1, 2, 1)]
    every = nn.ModuleList(modules).eval()
    x = draw(5, 130, 64, dtype=dtype)
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        if INTERPRETED:
            patch.setattr(paths, "fits_tiles", lambda x, *sizes: tiles.fit_units(*sizes))
        with torch.autocast(DEVICE, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            result = project(x, context(), *modules)
    every.double()
    exact = x.double()
    for module, mine in zip(modules, result, strict=True):
        h = nn.functional.silu(module.mu(exact))
        plain = paths.block_diagonal(exact.flatten(0, 1), module.blocks).view(*mine.shape)
        close(mine, plain + module.decoder(h), dtype, "y", roundings=3)


@pytest.mark.parametrize("form", ["reference", "mean", "free_bits"])
def test_a_loss_that_is_no_number_shows(form: str) -> None:
    latents = torch.zeros(70, 16, device=DEVICE)
    latents[33, 5] = torch.nan
    key, terms = torch.tensor([1], device=DEVICE), Terms([0, FORMS[form]], [0.0, 1.0])
    assert not latent_triton.sample_fused(latents, key, [4, 4], terms)[1].isfinite()
