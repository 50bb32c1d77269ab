"""Published designs that every study trains first, scaled to its backbone."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import gcd, lcm
from typing import Any

from surgery.architecture import Architecture, check_fit
from surgery.architecture.costs import cost
from surgery.architecture.layout import layout_from_ratio, tile
from surgery.architecture.memory import LARGEST_DEVICE, describe_training, machine_memory, training_bytes
from surgery.architecture.rules import Rule
from surgery.config.backbone import Backbone
from surgery.config.options import Cursor
from surgery.config.problems import Problems, nearest
from surgery.config.quantities import format_bytes
from surgery.mixers.softmax import attention_projections

LT2_LOOPS = 4
LT2_WINDOWS = (128, 256, 512, None)  # of its loop-level schedule, from the narrowest
STREAMING_SINKS = 4  # StreamingLLM, arXiv 2309.17453
LT2_MIXERS: dict[str, dict[str, Any]] = {
    "G": {"key_ratio": 0.75, "expand_v": 2.0},
    "D": {"key_ratio": 1.0, "expand_v": 1.5},
    "M": {"expand": 2.0, "state_size": 64},
    "F": {"gate": True},
}  # docs/papers.md, Hybrid patterns and Gated attention
PAPER_DIM, PAPER_RANK, PAPER_BLOCKS = 512, 128, 8  # HDPL, arXiv 2602.07070
PAPER_PROJECTIONS = ("q", "k", "v", "gate", "up")

MATCHED = "-matched"  # suffix of a name: parameter count matched to the dense backbone
FFN_STEP = 8  # ffn_dim stays a multiple of this, for matrix units and the HDPL paper's blocks
MOST_FFN = 64  # largest ffn_dim, in multiples of dim

Rules = Callable[[Backbone], tuple[Rule, ...]]


@dataclass(frozen=True)
class Baseline:
    """A design given by layout, loops and projection rules.

    A backbone with fewer layers than the layout uses the layout's end, which holds its rarer mixer.

    Attributes:
        placement: of the layout's last letter, at the share that it has in the layout; empty: tiled.
        windows: tokens that attention sees in each loop iteration; None: all.
        period: steps of FFN_STEP between widths of the SwiGLU for which the rules are alike, by the backbone.
    """

    layout: str = "F"
    loops: int = 1
    rules: Rules = lambda backbone: ()
    mixers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    period: Callable[[Backbone], int] = lambda backbone: 1
    placement: str = ""
    windows: tuple[int | None, ...] = ()

    def build(self, backbone: Backbone) -> Architecture:
        """Return the design with the sizes of `backbone`."""
        letters = self.letters(backbone.num_layers)
        return Architecture(backbone, letters, self.mixers, self.rules(backbone), self.loops, self.windows)

    def letters(self, depth: int) -> str:
        """Return the layout of a stack of this depth."""
        if self.placement:
            ratio = Counter(reversed(self.layout))  # the last letter is the one that is placed
            return layout_from_ratio(ratio, self.placement, depth)
        return self.layout[-depth:] if depth < len(self.layout) else tile(self.layout, depth)


def hdpl_paper_rules(backbone: Backbone) -> tuple[Rule, ...]:
    """Return the rules of the paper's hybrid at any width: 8 blocks and rank 128 at dim 512.

    The rank scales with the width (a quarter of dim, at least 8). There are 8 blocks, or the largest smaller
    number that divides both sides of every projection.
    """
    blocks = max(_block_counts(gcd(_common_side(backbone), backbone.ffn_dim)))
    rank = max(8, backbone.dim * PAPER_RANK // PAPER_DIM)
    options = {"blocks": blocks, "rank": rank, "kl_weight": 1e-3, "kl": "reference"}
    return (Rule(PAPER_PROJECTIONS, "hdpl", options),)


def hdpl_paper_period(backbone: Backbone) -> int:
    """Return the steps of FFN_STEP after which `hdpl_paper_rules` has the same blocks again."""
    return lcm(FFN_STEP, *_block_counts(_common_side(backbone))) // FFN_STEP


def _common_side(backbone: Backbone) -> int:
    """Return the greatest common divisor of the projections' sides other than the width of the SwiGLU."""
    attention = attention_projections(backbone)
    sides = [side for name in PAPER_PROJECTIONS for side in attention.get(name, (backbone.dim,))]
    return gcd(*sides)


def _block_counts(common: int) -> list[int]:
    return [count for count in range(1, PAPER_BLOCKS + 1) if common % count == 0]


BASELINES: dict[str, Baseline] = {
    "dense": Baseline(),
    "hdpl-paper": Baseline(rules=hdpl_paper_rules, period=hdpl_paper_period),
    "lt2-looped": Baseline(loops=LT2_LOOPS),
    "lt2-gdn": Baseline("G", LT2_LOOPS, mixers=LT2_MIXERS),
    "lt2-kda": Baseline("D", LT2_LOOPS, mixers=LT2_MIXERS),
    "lt2-mamba2": Baseline("M", LT2_LOOPS, mixers=LT2_MIXERS),
    "lt2-full-gdn": Baseline("GGGGF", LT2_LOOPS, mixers=LT2_MIXERS),
    "lt2-bookend": Baseline("GGGGF", LT2_LOOPS, mixers=LT2_MIXERS, placement="bookend"),
    "lt2-gdn-dsa": Baseline("GGGGS", LT2_LOOPS, mixers=LT2_MIXERS),
    "lt2-loop-window": Baseline(loops=LT2_LOOPS, windows=LT2_WINDOWS),
    "lt2-nsa": Baseline("B", LT2_LOOPS),
    "lt2-gdn-nsa": Baseline("GGGGB", LT2_LOOPS, mixers=LT2_MIXERS),
    "gka": Baseline("K"),
    "gka-hybrid": Baseline("KKKF"),
    "swa-sinks": Baseline("W", mixers={"W": {"sinks": STREAMING_SINKS}}),
}
NAMES = (*BASELINES, *(name + MATCHED for name in BASELINES if name != "dense"))


def build_baseline(name: str, backbone: Backbone) -> Architecture:
    """Return the baseline of that name. `-matched` sets ffn_dim so that its parameters come closest to dense.

    Raises:
        KeyError: `name` is not a baseline.
    """
    design = BASELINES[name.removesuffix(MATCHED)]
    if not name.endswith(MATCHED):
        return design.build(backbone)
    target = cost(BASELINES["dense"].build(backbone), "params")

    def built(steps: int) -> Architecture:
        return design.build(replace(backbone, ffn_dim=steps * FFN_STEP))

    def params(steps: int) -> int:
        return cost(built(steps), "params")

    widest = max(MOST_FFN * backbone.dim, 4 * backbone.ffn_dim) // FFN_STEP
    period = design.period(backbone)
    near: list[int] = []
    for first in range(1, period + 1):  # parameters grow with the width where the rules are alike
        widths = range(first, max(widest, first + 1), period)
        enough = bisect_left(widths, target, key=params)
        near += widths[max(0, enough - 1) : enough + 1]
    return built(min(near, key=lambda steps: (abs(params(steps) - target), steps)))


def read_baselines(data: object, backbone: Backbone | None, cursor: Cursor) -> tuple[str, ...]:
    """Return the valid names. Errors and baselines that do not fit the backbone become problems."""
    if data is None:
        if backbone is not None and (rules := misfits("dense", backbone)):
            cursor.problem("dense", f"does not fit this backbone: {'; '.join(rules)}", "make it smaller")
        return ("dense",)
    if not isinstance(data, list):
        cursor.problem(data, "must be a list of baselines", f"out of {', '.join(BASELINES)}")
        return ()
    names: list[str] = []
    for index, name in enumerate(data):
        here = cursor.at(index)
        if not isinstance(name, str) or name not in NAMES:
            hint = nearest(str(name), NAMES) or f"baselines: {', '.join(BASELINES)}, each also with {MATCHED}"
            here.problem(name, "is not a baseline", hint)
        elif name in names:
            here.problem(name, "is listed twice", "remove one")
        elif backbone is not None and (rules := misfits(name, backbone)):
            here.problem(name, f"does not fit this backbone: {'; '.join(rules)}", "remove or shrink it")
        else:
            names.append(name)
    return tuple(names)


def misfits(name: str, backbone: Backbone) -> list[str]:
    """Return the rules that the baseline violates on this backbone, one of which is a limit on its memory.

    A baseline need not meet the space's constraints.
    """
    problems = Problems()
    architecture = build_baseline(name, backbone)
    check_fit(architecture, Cursor(problems))
    rules = [problem.rule for problem in problems.entries]
    if training_bytes(architecture) > LARGEST_DEVICE:
        rules.append(
            f"it {describe_training(architecture)}, more than the {format_bytes(LARGEST_DEVICE)} allowed; "
            f"this machine has {format_bytes(machine_memory())}"
        )
    return rules
