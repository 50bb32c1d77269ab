"""Projection operators compared with dense: siblings that share an input, forward and backward.

Every round measures each form once, so that a machine that slows down affects all equally; medians and
spreads over the rounds are reported. The faster of the eager and compiled forms counts, for dense as well;
the compiled form of an operator counts only if it is clearly faster.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from surgery.context import Context
from surgery.projections import PROJECTION_OPERATORS
from surgery.projections.siblings import project

DENSE = "dense"
WORTH = 0.97  # most compiled time of an operator, as a share of its eager time, for that form to count
LEAST_SECONDS = 0.03  # per round, so that clock rates and queues are those of training


@dataclass(frozen=True)
class Siblings:
    """`count` projections d_in -> d_out of one input."""

    d_in: int
    count: int
    d_out: int

    def __str__(self) -> str:
        return f"{self.d_in} -> {self.count}x{self.d_out}"


# q k v, and gate up, of models from 512 to 4096 wide: the table of the published results
TABLE = tuple(
    Siblings(dim, count, width)
    for dim, ffn in ((512, 2048), (1024, 4096), (2048, 8192), (4096, 14336))
    for count, width in ((3, dim), (2, ffn))
)


@dataclass(frozen=True)
class Plan:
    """Settings of the benchmark. `options` apply to every operator that has them."""

    shapes: tuple[Siblings, ...]
    tokens: int
    options: dict[str, Any] = field(default_factory=dict)  # blocks, rank, kl, kl_weight
    rounds: int = 5
    compiled: bool = False  # measure compiled forms as well
    graphs: bool = False  # replay CUDA graphs: device time, without launch overhead


@dataclass(frozen=True)
class Measured:
    """Timing of an operator's siblings. Times are medians in ms, spreads (highest - lowest) / median.

    Attributes:
        form: `eager` or `compiled`, the same for all values (see `_best`).
        tflops: 10^12 FLOPs/s of forward with backward, counted as 3 forwards.
        ratio: dense's time over this one's, forward with backward; `forward_ratio` likewise.
        limit: dense's FLOPs over this one's: the ratio at equal efficiency.
        bytes: peak memory of a step with weights, gradients, input and output gradient; None if unknown on
            this device.
    """

    siblings: str
    operator: str
    form: str
    forward_ms: float
    forward_spread: float
    step_ms: float
    step_spread: float
    tflops: float
    forward_ratio: float
    ratio: float
    limit: float
    bytes: int | None
    memory_ratio: float | None

    @property
    def of_limit(self) -> float:
        """The achieved share of the arithmetic limit."""
        return self.ratio / self.limit

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {**asdict(self), "of_limit": self.of_limit}


def measure(
    plan: Plan, device: torch.device, on_shape: Callable[[Siblings], None] | None = None
) -> Iterator[Measured]:
    """Yield timings by shape, all operators of a shape together, dense first.

    Operators that do not fit a shape are skipped; `broken_rules` lists them.
    """
    for siblings in plan.shapes:
        if on_shape is not None:
            on_shape(siblings)
        if plan.compiled:
            torch.compiler.reset()  # Dynamo stops compiling a function after eight variants
        runs = [
            _Run(plan, siblings, operator, form, device)
            for operator, spec in PROJECTION_OPERATORS.items()
            if spec.broken_rule(siblings.d_in, siblings.d_out, _options(plan, operator)) is None
            for form in (("eager", "compiled") if plan.compiled else ("eager",))
        ]
        for _ in range(plan.rounds):
            for run in runs:
                run.round()
        best = {
            operator: _best([run for run in runs if run.operator == operator])
            for operator in dict.fromkeys(run.operator for run in runs)
        }
        for run in best.values():
            yield _summary(run, best[DENSE])


def _best(forms: list[_Run]) -> _Run:
    """Return the faster form, but the eager one (which comes first) unless compiling is clearly faster.

    For dense it is always the faster one, so that no lead over dense is due to this choice.
    """
    fastest = min(forms, key=lambda run: run.seconds)
    hardly = forms[0].operator != DENSE and fastest.seconds > WORTH * forms[0].seconds
    return forms[0] if hardly else fastest


def broken_rules(plan: Plan) -> list[str]:
    """Return a message for each operator that does not fit a shape."""
    messages = []
    for siblings in plan.shapes:
        for operator, spec in PROJECTION_OPERATORS.items():
            rule = spec.broken_rule(siblings.d_in, siblings.d_out, _options(plan, operator))
            if rule is not None:
                messages.append(f"{operator} {siblings}: {rule[0]} {rule[1]}")
    return messages


def _options(plan: Plan, operator: str) -> dict[str, Any]:
    """Return the operator's options: those of the plan, else its defaults."""
    return {
        name: plan.options.get(name, option.default)
        for name, option in PROJECTION_OPERATORS[operator].options.items()
    }


class _Run:
    """One operator in one form at one shape, with its measured times in seconds."""

    def __init__(
        self, plan: Plan, siblings: Siblings, operator: str, form: str, device: torch.device
    ) -> None:
        self.plan, self.siblings, self.operator, self.form, self.device = (
            plan, siblings, operator, form, device,
        )  # fmt: skip
        self.dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        torch.manual_seed(0)
        self.modules = self._build()
        self.x = self._draw(siblings.d_in).requires_grad_()
        self.rotary = (self.x.new_empty(1, 0, 0),) * 2  # projections ignore the angles
        self.d_ys = [self._draw(siblings.d_out) for _ in self.modules]
        self.run = torch.compile(self._project) if form == "compiled" else self._project
        self.forward_times: list[float] = []
        self.step_times: list[float] = []
        self._forward()  # compiles, and warms up
        self._step()
        self.bytes = self._peak()
        self.forward, self.step = self._forward, self._step
        if plan.graphs and device.type == "cuda":
            self.forward, self.step = _captured(self._forward), _captured(self._step)
        self.repeats = [self._repeats(work) for work in (self.forward, self.step)]

    @property
    def flops(self) -> int:
        """FLOPs of a training forward over all tokens."""
        d_in, count, d_out = self.siblings.d_in, self.siblings.count, self.siblings.d_out
        spec = PROJECTION_OPERATORS[self.operator]
        per_token = spec.flops(d_in, d_out, _options(self.plan, self.operator), training=True)
        return self.plan.tokens * count * per_token

    @property
    def seconds(self) -> float:
        """Median seconds of a forward with backward so far."""
        return median(self.step_times)

    def round(self) -> None:
        """Measure once."""
        for times, work, repeats in zip(
            (self.forward_times, self.step_times), (self.forward, self.step), self.repeats, strict=True
        ):
            times.append(self._timed(work, repeats))

    def _build(self) -> list[nn.Module]:
        spec, options = PROJECTION_OPERATORS[self.operator], _options(self.plan, self.operator)
        sizes = (self.siblings.d_in, self.siblings.d_out)
        modules = [spec.build(*sizes, False, options) for _ in range(self.siblings.count)]
        return [module.to(self.device, self.dtype).train() for module in modules]

    def _draw(self, width: int) -> Tensor:
        return torch.randn(self.plan.tokens, width, device=self.device, dtype=self.dtype)

    def _project(self) -> tuple[list[Tensor], list[Tensor]]:
        context = Context(self.rotary)
        return project(self.x, context, *self.modules), context.losses

    def _forward(self) -> None:
        self.run()

    def _step(self) -> None:
        ys, losses = self.run()
        weights = [torch.ones_like(loss) for loss in losses]
        torch.autograd.backward([*ys, *losses], [*self.d_ys, *weights])
        self.x.grad = None
        for module in self.modules:
            module.zero_grad(set_to_none=True)

    def _peak(self) -> int | None:
        if self.device.type != "cuda":
            return None
        torch.cuda.synchronize(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        self._step()
        held = [self.x, *self.d_ys, *(p for module in self.modules for p in module.parameters())]
        own = sum(tensor.numel() * tensor.element_size() for tensor in held)
        return torch.cuda.max_memory_allocated(self.device) - before + own

    def _repeats(self, work: Callable[[], None]) -> int:
        """Return the repetitions of `work` in a round."""
        return max(1, min(200, int(LEAST_SECONDS / self._timed(work, 1))))

    def _timed(self, work: Callable[[], None], repeats: int) -> float:
        """Return the mean seconds of one repetition."""
        if self.device.type != "cuda":
            started = time.perf_counter()
            for _ in range(repeats):
                work()
            return (time.perf_counter() - started) / repeats
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for _ in range(repeats):
            work()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / 1000 / repeats


def _captured(work: Callable[[], None]) -> Callable[[], None]:
    """Capture `work` as a CUDA graph and return its replay."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


def _summary(run: _Run, dense: _Run) -> Measured:
    forward, step = median(run.forward_times), run.seconds
    memory = run.bytes / dense.bytes if run.bytes is not None and dense.bytes is not None else None
    return Measured(
        str(run.siblings), run.operator, run.form,
        1000 * forward, (max(run.forward_times) - min(run.forward_times)) / forward,
        1000 * step, (max(run.step_times) - min(run.step_times)) / step,
        3 * run.flops / step / 1e12,
        median(dense.forward_times) / forward, dense.seconds / step,
        dense.flops / run.flops, run.bytes, memory,
    )  # fmt: skip
