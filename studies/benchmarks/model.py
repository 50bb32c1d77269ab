"""Training steps of whole models compared: tokens/s, time by phase and memory.

Every round times a few steps of each model, so that a machine that slows down affects all of them equally.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from studies.benchmarks.bare import BareModel
from studies.benchmarks.peak import peak_flops
from studies.latency.timing import summary, timed
from studies.training.compilation import pays
from studies.training.devices import autocast, peak_memory, reset_peak_memory
from studies.training.profiling import mark, watching
from studies.training.settings import TrainSettings
from studies.training.step import UNCAPTURED, TrainStep
from surgery.architecture import Architecture
from surgery.architecture.costs import cost
from surgery.config.backbone import Backbone
from surgery.model import HybridLM

BARE = "bare loop"
LONG = 1 << 62  # tokens: a run so long that `auto` compiles wherever it ever would
PHASES = ("forward", "backward", "optimizer", "replay")

Step = Callable[[Tensor, Tensor], None]


@dataclass(frozen=True)
class ModelTiming:
    """Timing of a training step. Times are medians over the rounds, spreads (highest - lowest) / median.

    Attributes:
        of_peak: FLOPs/s of the model's matrix products, as a share of those of one large product.
        replay_ms: a whole step replayed as a CUDA graph; the times of its phases are then 0.
        first_step_s: seconds of the first step, compilation included.
        bytes: peak memory of the model and its training; None if unknown on this device.
    """

    name: str
    line: str
    params: int
    step_ms: float
    spread: float
    tokens_per_s: float
    of_peak: float
    forward_ms: float
    backward_ms: float
    optimizer_ms: float
    replay_ms: float
    first_step_s: float
    bytes: int | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class ModelPlan:
    """Settings of the benchmark. The bare loop is the dense model of `bare`'s sizes."""

    architectures: Mapping[str, Architecture]
    seq_len: int
    batch_tokens: int
    rounds: int = 5
    steps: int = 5  # per round
    compile: str = "auto"
    bare: Backbone | None = None

    def compiles(self, device: torch.device) -> bool:
        """Return whether blocks are compiled on this device."""
        return pays(self.compile, device, LONG)

    @property
    def everything(self) -> dict[str, Architecture]:
        """All measured architectures by name, the bare loop's included."""
        bare = {BARE: Architecture(self.bare)} if self.bare is not None else {}
        return {**self.architectures, **bare}


def measure_models(
    plan: ModelPlan, device: torch.device, on_model: Callable[[str], None] = lambda name: None
) -> list[ModelTiming]:
    """Return one timing per model, in the given order, the bare loop last."""
    names = list(plan.everything)
    vocab = min(item.backbone.vocab_size for item in plan.architectures.values())
    generator = torch.Generator().manual_seed(0)
    shape = (plan.batch_tokens // plan.seq_len, plan.seq_len + 1)
    rows = torch.randint(vocab, shape, generator=generator).to(device)
    peak = peak_flops(device)
    steps, first, memory = {}, {}, {}
    for name in names:
        on_model(name)
        before = _allocated(device)
        steps[name] = _step(plan, name, device)
        first[name] = timed(lambda name=name: _run(steps[name], rows, 1), device)  # type: ignore[misc]
        _run(steps[name], rows, UNCAPTURED)  # the last of them captures the step, if possible
        memory[name] = None if before is None else peak_memory(device) - before
    seconds: dict[str, list[float]] = {name: [] for name in names}
    parts: dict[str, dict[str, list[float]]] = {name: {phase: [] for phase in PHASES} for name in names}
    for name in _rounds(names, plan.rounds):
        on_model(name)
        step = steps[name]
        seconds[name].append(timed(lambda step=step: _run(step, rows, plan.steps), device) / plan.steps)  # type: ignore[misc]
        with watching(device) as stretches:
            _run(step, rows, 1)
        for phase in PHASES:
            parts[name][phase].append(sum(stretches.of(phase)))
    return [
        _timing(plan, name, seconds[name], parts[name], first[name], memory[name], peak) for name in names
    ]


def _allocated(device: torch.device) -> int | None:
    """Reset the peak and return the bytes allocated before it; None on a CPU, whose allocator can't tell."""
    reset_peak_memory(device)
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else None


def _rounds(names: list[str], rounds: int) -> Iterator[str]:
    for _ in range(rounds):
        yield from names


def _timing(
    plan: ModelPlan,
    name: str,
    seconds: list[float],
    parts: dict[str, list[float]],
    first: float,
    memory: int | None,
    peak: float,
) -> ModelTiming:
    step = summary(seconds)
    architecture = plan.everything[name]
    tokens_per_s = 1000 * plan.batch_tokens / step.ms
    return ModelTiming(
        name=name,
        line=architecture.line,
        params=int(cost(architecture, "params")),
        step_ms=step.ms,
        spread=step.spread,
        tokens_per_s=tokens_per_s,
        of_peak=tokens_per_s * cost(architecture, f"train_flops@{plan.seq_len}") / peak,
        forward_ms=summary(parts["forward"]).ms,
        backward_ms=summary(parts["backward"]).ms,
        optimizer_ms=summary(parts["optimizer"]).ms,
        replay_ms=summary(parts["replay"]).ms,
        first_step_s=first,
        bytes=memory,
    )


def _run(step: Step, rows: Tensor, times: int) -> None:
    for _ in range(times):
        step(rows[:, :-1], rows[:, 1:])


def _step(plan: ModelPlan, name: str, device: torch.device) -> Step:
    torch.manual_seed(0)
    if name == BARE:
        assert plan.bare is not None
        return _bare_step(plan, plan.bare, device)
    settings = TrainSettings(LONG, plan.seq_len, plan.batch_tokens, compile=plan.compile)
    train_step = TrainStep(HybridLM(plan.architectures[name]).to(device).train(), settings, device)

    def step(inputs: Tensor, targets: Tensor) -> None:
        train_step.step(1, inputs, targets)

    return step


def _bare_step(plan: ModelPlan, sizes: Backbone, device: torch.device) -> Step:
    """Return the bare loop's step; the whole model is compiled if ours compiles its blocks."""
    model = BareModel(sizes, plan.seq_len).to(device)
    run: Any = torch.compile(model) if plan.compiles(device) else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.1, fused=True)

    def step(inputs: Tensor, targets: Tensor) -> None:
        with autocast(device):
            logits = run(inputs)
            loss = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())
        mark("forward")
        loss.backward()
        mark("backward")
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        mark("optimizer")

    return step
