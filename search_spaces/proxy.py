"""The proxy: the short training run that every architecture gets, the same for all."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from search_spaces.probes.base import Probe
from search_spaces.probes.recall import Recall
from search_spaces.probes.registry import PROBES
from search_spaces.probes.state import State
from surgery.config.options import Cursor, Option
from surgery.config.quantities import parse_count

_COUNTS = {
    "tokens": "tokens of one training run",
    "seq_len": "tokens of a sequence",
    "batch_tokens": "tokens of an optimizer step, a multiple of seq_len",
    "eval_tokens": "held-out tokens the loss is measured on",
}
LR_RULES = ("roles", "width", "uniform")
_SETTINGS = {
    "seconds": Option(
        float, low=0.1, high=1e7, help="of training that a run gets; tokens is then the most that it takes"
    ),
    "lr": Option(float, low=1e-8, high=1.0, help="peak learning rate of AdamW"),
    "lr_rule": Option(
        str,
        choices=LR_RULES,
        help="roles: lr for matrices, six times as much for embeddings, norms and gates; width: likewise, "
        "and more for HDPL's blocks and decoders, the fewer inputs they have; uniform: lr for all",
    ),
    "warmup": Option(  # or a count
        float,
        low=0.0,
        high=0.9,
        help="fraction of the steps in which the rate rises, at most 0.9, or tokens such as 1M",
    ),
    "final_lr": Option(float, low=0.0, high=1.0, help="share of the peak rate that is left at the end"),
    "weight_decay": Option(float, low=0.0, high=10.0, help="AdamW's, on matrices only"),
    "seeds": Option(int, low=1, high=20, help="runs of each architecture; their mean is compared"),
}


@dataclass(frozen=True)
class Proxy:
    """Budget and settings of one proxy training run.

    Attributes:
        tokens, seq_len, batch_tokens, eval_tokens: in tokens.
        seconds: of training that every run gets instead of as many tokens, `tokens` being the most it takes;
            evaluations don't count. None: every run takes all tokens.
        rungs: fractions of the budget at which trials are compared, rising, the last is 1.
        lr: peak learning rate.
        lr_rule: who gets it: `roles`, `width` or `uniform` (`studies.training.step.make_optimizer`).
        warmup: fraction of the steps if below 1, else tokens: then an audit's longer runs have as many.
        final_lr: share of the peak that the rate's cosine ends at; 1: it stays at the peak.
        seeds: runs of each architecture.
        recall, state: the probes of these names, where they are objectives.
    """

    tokens: int = 20_000_000
    seq_len: int = 512
    batch_tokens: int = 32_768
    seconds: float | None = None
    rungs: tuple[float, ...] = (0.2, 0.5, 1.0)  # behind the warm-up: before, losses rank nothing
    lr: float = 1e-3
    lr_rule: str = "roles"
    warmup: float = 0.1
    final_lr: float = 0.1
    weight_decay: float = 0.1
    eval_tokens: int = 131_072
    seeds: int = 1
    recall: Recall | None = None
    state: State | None = None

    @property
    def probes(self) -> dict[str, Probe]:
        """Those that are measured, by name."""
        found = {name: getattr(self, name) for name in PROBES}
        return {name: probe for name, probe in found.items() if probe is not None}

    @property
    def steps(self) -> int:
        """Optimizer steps, the most of them where the budget is time; what is left of `tokens` after whole
        steps is not trained on."""
        return self.tokens // self.batch_tokens

    @property
    def rung_steps(self) -> tuple[int, ...]:
        """The step after which each rung is reached; the last is `steps`."""
        return tuple(round(rung * self.steps) for rung in self.rungs)

    @property
    def warmup_share(self) -> float:
        """Of the most steps that a run takes."""
        return self.warmup if self.warmup < 1 else self.warmup / self.tokens

    def to_dict(self) -> dict[str, Any]:
        """Without the probes that are not used, and without a time that is not: they have no effect."""
        found = {**asdict(self), "rungs": list(self.rungs)}
        unused = {name for name in (*PROBES, "seconds") if found[name] is None}
        return {name: value for name, value in found.items() if name not in unused}


def read_proxy(data: object, vocab_size: int | None, probes: Collection[str], cursor: Cursor) -> Proxy | None:
    """From a mapping, defaults filled in; None with problems. `probes`: those that are objectives."""
    before = len(cursor.problems.entries)
    given = cursor.mapping(data, (*_COUNTS, "rungs", *_SETTINGS, *PROBES))
    values: dict[str, Any] = {}
    for name, kind in PROBES.items():
        if name in probes:
            values[name] = kind.read(given.get(name), vocab_size, cursor.at(name))
        elif name in given:
            rule = f"has no effect: {name} is not an objective"
            cursor.at(name).problem(None, rule, f"add {name}: max to the objectives")
    for name, value in given.items():
        if name in PROBES:
            continue
        try:
            values[name] = _read(name, value)
        except ValueError as error:
            text = _COUNTS.get(name) or (_SETTINGS[name].help if name in _SETTINGS else "")
            cursor.at(name).problem(value, str(error), text)
    proxy = Proxy(**values)
    if len(cursor.problems.entries) == before:
        _check(proxy, given, cursor)
    return proxy if len(cursor.problems.entries) == before else None


def check_ahead(proxy: Proxy, start: float, cursor: Cursor) -> None:
    """`val_loss@Kx` needs a point of the curve to start from: `start`, a share of the run."""
    if start not in proxy.rungs:
        rule = f"carries the curve on from {start:g} of the run, where there is no rung"
        rungs = ", ".join(f"{item:g}" for item in sorted({*proxy.rungs, start}))
        cursor.problem(None, rule, f"write rungs: [{rungs}] in proxy")


def _read(name: str, value: object) -> Any:
    if name == "rungs":
        return _read_rungs(value)
    if name in _SETTINGS and (name != "warmup" or _is_fraction(value)):
        return _SETTINGS[name].read(value)
    count = parse_count(value)
    if count < 1:
        raise ValueError("must be at least 1")
    return count


def _is_fraction(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value < 1


def _read_rungs(value: object) -> tuple[float, ...]:
    if not isinstance(value, list) or not value:
        raise ValueError("must be a list of fractions such as [0.1, 0.3, 1.0]")
    if any(
        isinstance(item, bool) or not isinstance(item, int | float) or not 0 < item <= 1 for item in value
    ):
        raise ValueError("must be fractions of the budget, above 0 and at most 1")
    if any(later <= sooner for sooner, later in pairwise(value)):
        raise ValueError(f"must rise: [{', '.join(f'{item:g}' for item in sorted(set(value)))}]")
    if value[-1] != 1:
        raise ValueError("must end with 1.0, the whole budget")
    return tuple(float(item) for item in value)


def _check(proxy: Proxy, given: dict[str, Any], cursor: Cursor) -> None:
    """Rules between fields."""
    seq_len, batch, tokens = proxy.seq_len, proxy.batch_tokens, proxy.tokens
    if batch % seq_len:
        below = batch // seq_len * seq_len
        hint = f"write {' or '.join(str(size) for size in (below, below + seq_len) if size)}"
        cursor.at("batch_tokens").problem(batch, f"must be a multiple of seq_len ({seq_len})", hint)
    if tokens < batch:
        shown = given.get("tokens", tokens)
        cursor.at("tokens").problem(shown, f"is less than one step of {batch} tokens", "train longer")
    elif len(set(proxy.rung_steps)) < len(proxy.rungs) or proxy.rung_steps[0] < 1:
        cursor.at("rungs").problem(
            list(proxy.rungs),
            f"a run has only {proxy.steps} steps, so that rungs fall on steps {list(proxy.rung_steps)}",
            "use fewer rungs, smaller batches or more tokens",
        )
    if proxy.warmup >= 1 and not batch <= proxy.warmup <= 0.9 * tokens:
        rule = f"must be at least one step ({batch} tokens) and at most 0.9 of the run ({tokens})"
        cursor.at("warmup").problem(given["warmup"], rule, _SETTINGS["warmup"].help)
    if proxy.eval_tokens < seq_len:
        cursor.at("eval_tokens").problem(proxy.eval_tokens, f"is less than one sequence ({seq_len})")
