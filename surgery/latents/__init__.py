"""The latents of HDPL projections: read over a text, steered at inference, shifted by small adapters.

A projection computes y = BlockDiag(x) + D silu(z) with z = mu(x) in evaluation (arXiv 2602.07070;
docs/papers.md, HDPL). Everything here is about z, whose dimensions are called units.
"""

from surgery.latents.adapter import Adapter, load_adapter
from surgery.latents.apply import steered
from surgery.latents.projections import Latent, latent_projections, latent_ranks, ranks_of
from surgery.latents.recording import recording
from surgery.latents.statistics import Statistics
from surgery.latents.steering import Steering, read_steering

__all__ = [
    "Adapter",
    "Latent",
    "Statistics",
    "Steering",
    "latent_projections",
    "latent_ranks",
    "load_adapter",
    "ranks_of",
    "read_steering",
    "recording",
    "steered",
]
