"""Report of an audit: rank correlations of the proxy and its rivals with longer training, and a verdict."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from studies.audit.kinds import Misjudged, misjudged
from studies.audit.plan import CONTROL, Audit
from studies.audit.settings import long_settings
from studies.files.json_file import read_json
from studies.library.scores import read_scores
from studies.stats.extrapolation import extrapolated_losses
from studies.stats.rank_correlation import (
    LEVEL,
    Array,
    Estimate,
    bootstrap,
    kendall,
    partial_kendall,
    partial_spearman,
    spearman,
)
from studies.stats.rungs import step_at
from studies.study.trial_record import TrialRecord
from surgery.architecture.costs import cost
from surgery.architecture.metrics import AHEAD

FEWEST = 8  # architectures, for a verdict
SHARES = (0.1, 0.3)  # of a healing, after which a loss is looked at
GOOD = 0.7  # least Spearman's rho of a good proxy
PROXY, PARAMS, FLOPS = "proxy loss", "parameters only", "FLOPs only"
KL, SUM = "KL before healing", "summed scores"  # of designs of a pretrained model
NONE = Estimate(math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class Point:
    """An architecture with a finished long run.

    Attributes:
        proxy_loss: the loss by which the study ranks it, in nats/token.
        long_losses: held-out losses at the end, one per seed, in nats/token.
    """

    record: TrialRecord
    proxy_loss: float
    long_losses: tuple[float, ...]
    on_front: bool

    @property
    def long_loss(self) -> float:
        """Mean of the long losses."""
        return fmean(self.long_losses)


@dataclass(frozen=True)
class Row:
    """Rank correlations of one predictor with longer training; positive is the right direction.

    Attributes:
        count: number of architectures with a known value.
        partial_spearman, partial_kendall: with parameters partialled out.
        ahead: the proxy's Spearman minus this one's, over the same bootstrap draws.
    """

    name: str
    count: int
    spearman: Estimate
    kendall: Estimate
    partial_spearman: Estimate
    partial_kendall: Estimate
    ahead: Estimate

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "predictor": self.name,
            "architectures": self.count,
            "spearman": self.spearman.to_list(),
            "kendall_tau_b": self.kendall.to_list(),
            "partial_spearman": self.partial_spearman.to_list(),
            "partial_kendall_tau_b": self.partial_kendall.to_list(),
            "proxy_ahead_by": self.ahead.to_list(),
        }


@dataclass(frozen=True)
class Report:
    """The report of `nas audit`. Estimates are [value, low, high] with 90 % intervals in JSON."""

    audit: Audit
    points: tuple[Point, ...]
    failed: dict[int, str]
    rows: tuple[Row, ...]
    better_half: Estimate
    misjudged: tuple[Misjudged, ...]
    chance: Estimate
    verdict: str
    epochs: float
    environments: tuple[dict[str, str], ...]
    # losses of the `original` and of the `control`, which is trained alike, and the latter's `control_kl`
    control: dict[str, float | None] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        proxy = self.audit.study.space.proxy
        return {
            "study": self.audit.study.name,
            "times": self.audit.times,
            "heal_tokens": self.audit.heal,
            "control": self.control,
            "proxy_loss": self.audit.judge,
            "proxy_seconds": proxy.seconds,
            "proxy_tokens": proxy.steps * proxy.batch_tokens,
            "long_tokens": self.audit.heal or long_settings(self.audit).steps * proxy.batch_tokens,
            "epochs": self.epochs,
            "interval": LEVEL,
            "predictors": [row.to_dict() for row in self.rows],
            "spearman_in_better_half": self.better_half.to_list(),
            "misjudged_kinds": [kind.to_dict() for kind in self.misjudged],
            "spearman_by_chance": self.chance.to_list(),
            "verdict": self.verdict,
            "failed": self.failed,
            "environments": list(self.environments),
            "architectures": [
                {
                    "number": point.record.number,
                    "hash": point.record.hash,
                    "architecture": point.record.line,
                    "baseline": point.record.baseline,
                    "on_front": point.on_front,
                    "params": point.record.metrics["params"],
                    "proxy_loss": point.proxy_loss,
                    "long_losses": list(point.long_losses),
                }
                for point in self.points
            ],
        }


def report(audit: Audit) -> Report:
    """Return the report of the runs finished so far."""
    study = audit.study
    records = {record.number: record for record in study.records()}
    on_front = {record.number for record in study.front()}
    points, failed, epochs = [], {}, 0.0
    environments: list[dict[str, str]] = []
    results = audit.results()
    for member in audit.members:
        losses = []
        for result in results[member.hash]:
            if result["environment"] not in environments:
                environments.append(result["environment"])
            if "failed" in result:
                failed[member.number] = result["failed"]
            else:
                losses.append(result["val_loss"])
                epochs = max(epochs, result["epochs"])
        if losses:
            record = records[member.number]
            proxy_loss = record.metrics[audit.judge]
            points.append(Point(record, proxy_loss, tuple(losses), member.number in on_front))
    target = np.array([point.long_loss for point in points])
    rows = tuple(_rows(audit, points, target))
    proxy, params = rows[0], next(row for row in rows if row.name == PARAMS)
    return Report(
        audit, tuple(points), failed, rows, _better_half(points), _misjudged(points), _chance(len(points)),
        verdict(len(points), _words(audit), proxy.spearman, proxy.partial_spearman, params.ahead),
        epochs, tuple(environments), read_json(audit.folder / CONTROL),
    )  # fmt: skip


def _words(audit: Audit) -> tuple[str, str]:
    """Return what ranks, and what it should rank like."""
    if audit.heal is not None:
        return "the KL before healing", "healing"
    return "the proxy", f"training {audit.times} times longer"


def verdict(count: int, words: tuple[str, str], proxy: Estimate, beyond: Estimate, ahead: Estimate) -> str:
    """Return the verdict as one sentence.

    Args:
        count: number of architectures.
        words: what ranks, and what it should rank like.
        proxy: Spearman of the former with the long loss.
        beyond: likewise with parameters partialled out.
        ahead: the proxy's Spearman minus that of parameters only.
    """
    what, longer = words
    if count < FEWEST or math.isnan(proxy.value):
        return (
            f"Can't tell: {count} architectures are too few to judge {what}; "
            f"audit at least {FEWEST}, better 24."
        )
    estimate = f"Spearman {proxy.value:.2f}, 90 % interval {proxy.low:.2f} to {proxy.high:.2f}"
    if proxy.low >= GOOD:
        first = f"Good: {what} ranks much as {longer} does ({estimate})"
    elif proxy.high < GOOD:
        first = f"Bad: {what} does not rank as {longer} does ({estimate})"
    else:
        first = f"Unclear: {what} may or may not rank as {longer} does ({estimate})"
    return f"{first}; {_against_params(beyond, ahead)}."


def _against_params(beyond: Estimate, ahead: Estimate) -> str:
    estimate = f"{beyond.value:.2f}, {beyond.low:.2f} to {beyond.high:.2f}, with parameters partialled out"
    if math.isnan(beyond.value):
        return "it is unclear whether it says more than parameters only: they do not vary enough"
    if beyond.high < 0:
        return f"at equal parameters it misleads ({estimate})"
    if beyond.low <= 0:
        return f"it is still unclear whether it says more than parameters only ({estimate})"
    raw = {1: "and it ranks better than parameters only", -1: "but parameters only rank better", 0: ""}
    raw[0] = "it is still unclear whether it ranks better than parameters only"
    side = 1 if ahead.low > 0 else -1 if ahead.high < 0 else 0
    return f"it says something that parameters don't ({estimate}), {raw[side]}"


def _rows(audit: Audit, points: Sequence[Point], target: Array) -> list[Row]:
    proxy = np.array([point.proxy_loss for point in points])
    params = np.array([point.record.metrics["params"] for point in points])
    length = audit.study.space.proxy.seq_len
    # more parameters and more FLOPs are expected to lower the loss: the sign makes that direction positive
    flops = -np.array([float(cost(point.record.build(), f"train_flops@{length}")) for point in points])
    rows = [_row(PROXY if audit.heal is None else KL, proxy, proxy, target, params)]
    others = _curve_predictors(audit, points) if audit.heal is None else _heal_predictors(audit, points)
    for name, losses in others.items():
        rows.append(_row(name, losses, proxy, target, params))
    rows.append(_row(PARAMS, -params, proxy, target, None))
    rows.append(_row(FLOPS, flops, proxy, target, params))
    return rows


def _row(name: str, predictor: Array, proxy: Array, target: Array, params: Array | None) -> Row:
    known = np.isfinite(predictor)
    x, p, y = predictor[known], proxy[known], target[known]
    partial_rho = partial_tau = ahead = NONE
    if params is not None:
        partial_rho = bootstrap(partial_spearman, x, y, params[known])
        partial_tau = bootstrap(partial_kendall, x, y, params[known])
    if name not in (PROXY, KL):
        ahead = bootstrap(_difference(spearman), p, x, y)
    rho, tau = bootstrap(spearman, x, y), bootstrap(kendall, x, y)
    return Row(name, int(known.sum()), rho, tau, partial_rho, partial_tau, ahead)


def _difference(statistic: Callable[[Array, Array], Array]) -> Callable[..., Array]:
    return lambda one, other, target: statistic(one, target) - statistic(other, target)


def _curve_predictors(audit: Audit, points: Sequence[Point]) -> dict[str, Array]:
    """Return the other predictors from the proxy's curves: held-out losses at rungs and extrapolated losses.

    Values are NaN for a trial whose curve is not in this folder.
    """
    space = audit.study.space
    proxy, judge = space.proxy, audit.judge
    curves = np.full((len(points), len(proxy.rungs)), math.nan)
    for index, point in enumerate(points):
        steps = point.record.whole_steps(proxy)
        rung_at = {step_at(share, steps): rung for rung, share in enumerate(proxy.rungs)}
        for entry in audit.study.curve(point.record.number):
            if "val_loss" in entry and entry["step"] in rung_at:
                curves[index, rung_at[entry["step"]]] = entry["val_loss"]
    shown = proxy.rungs[:-1] if judge == "val_loss" else proxy.rungs
    at_rungs = {f"loss at {share:.0%} of it": curves[:, rung] for rung, share in enumerate(shown)}
    ahead = [extrapolated_losses(curve, proxy.rungs) for curve in curves.tolist()]
    names = [name for name in AHEAD if name != judge and all(name in item for item in ahead)]
    extrapolated = {f"{name} by its curve": np.array([item[name] for item in ahead]) for name in names}
    return {**at_rungs, **extrapolated}


def _heal_predictors(audit: Audit, points: Sequence[Point]) -> dict[str, Array]:
    """Return the other predictors of healed losses: summed scores, and losses early in the healing."""
    parts = audit.study.space.replacements
    assert parts is not None, "only designs of a pretrained model are healed"
    scores = read_scores(audit.study.folder, parts)
    sums = [
        scores.predicted(point.record.params) if scores is not None and point.record.params else math.nan
        for point in points
    ]
    results = audit.results()
    curves = [results[point.record.hash][0].get("losses", []) for point in points]
    early = {
        f"loss after {share:.0%} of it": [
            curve[round(share * len(curve)) - 1] if round(share * len(curve)) >= 1 else math.nan
            for curve in curves
        ]
        for share in SHARES
    }
    return {SUM: np.array(sums), **{name: np.array(values) for name, values in early.items()}}


def _better_half(points: Sequence[Point]) -> Estimate:
    """Return Spearman among the half with the lower proxy losses, which has the candidates for the front."""
    half = sorted(points, key=lambda point: point.proxy_loss)[: (len(points) + 1) // 2]
    return bootstrap(
        spearman, np.array([item.proxy_loss for item in half]), np.array([item.long_loss for item in half])
    )


def _misjudged(points: Sequence[Point]) -> tuple[Misjudged, ...]:
    if len(points) < FEWEST:
        return ()
    architectures = [point.record.build() for point in points]
    losses = ([point.proxy_loss for point in points], [point.long_loss for point in points])
    return tuple(misjudged(architectures, *map(np.array, losses)))


def _chance(count: int, draws: int = 4000) -> Estimate:
    """Return Spearman of random orders with the truth: 0, with the interval of 90 % of them."""
    if count < 2:
        return NONE
    truth = np.arange(float(count))
    orders = np.random.default_rng(0).permuted(np.tile(truth, (draws, 1)), axis=1)
    absolute = np.abs(spearman(orders, np.broadcast_to(truth, orders.shape)))
    reach = float(np.quantile(absolute, LEVEL))
    return Estimate(0.0, -reach, reach)
