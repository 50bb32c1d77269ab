"""Text on what matters in a study: fields of architectures, or parts of a pretrained model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import median

import numpy as np

from search_spaces.replacements import KEEP, Part
from search_spaces.short_labels import short_labels
from studies.analysis.importances import FEWEST
from studies.library.scores import Scores
from studies.reporting.importance_map import ImportanceMap
from studies.reporting.markdown import markdown_table
from studies.reporting.part_map import SCORED, PartMap
from studies.reporting.score_map import brief, scores_of
from studies.stats.rank_correlation import FEWEST as FEWEST_RANKS
from studies.stats.rank_correlation import spearman
from studies.study import Study
from studies.study.trial_record import DONE, TrialRecord

_MOST = 4  # fields or parts named per objective
_LEAST = 0.02  # share below which one is not named
_CERTAIN = 0.05  # p below which a field has an effect on the loss


def what_matters(study: Study, records: Sequence[TrialRecord], front: Sequence[TrialRecord]) -> Iterator[str]:
    """Yield a heading, tables and sentences; nothing while nothing is known.

    Args:
        study: of either kind.
        records: its trials.
        front: those on the front.
    """
    scores = scores_of(study)
    if study.space.replacements is None:
        yield from _fields(study, records)
    elif scores is not None and (parts := PartMap.of(study)) is not None:
        yield "### What matters"
        rows = [
            [name, _largest(shares), "library scores" if name in SCORED else "exact"]
            for name, shares in parts.by_objective.items()
        ]
        yield "Share of each part in what replacing one part at a time changes, the largest first:"
        yield markdown_table(["objective", "parts that matter most", "known from"], rows)
        yield "What each replacement costs by its scores, and how often the designs of the front have it:"
        yield _options(study, scores, front)
        yield from _agreement(study, scores, records)
        yield f"`nas show {study.name} --scores` shows the score of every replacement in every layer."


def _fields(study: Study, records: Sequence[TrialRecord]) -> Iterator[str]:
    known = ImportanceMap.of(study)
    if known is None:
        return
    trials = sum(record.state == DONE and bool(record.params) for record in records)
    rows = []
    for name, shares in known.by_objective.items():
        if shares:
            exact = name not in ("front", known.loss_name)
            rows.append([name, _largest(shares), "exact" if exact else f"PED-ANOVA, {trials} trials"])
    yield "### What matters"
    yield "Share of each field in what changes an objective, the largest first; *front*: being on it."
    yield markdown_table(["objective", "fields that matter most", "known from"], rows)
    if not known.fields:
        yield (
            f"For {known.loss_name} and the front {FEWEST} trained architectures of the space are needed; "
            f"there are {trials}. The same `nas search` with more `--trials` continues."
        )
        return
    certain = [field.name for field in known.fields if field.p is not None and field.p < _CERTAIN]
    yield (
        f"Shares always add up to 1, also in pure noise. An effect on {known.loss_name} beyond what other "
        f"fields explain (p < {_CERTAIN:g} in a permutation test, not corrected for their number): "
        f"{', '.join(certain) or 'none yet'}. `nas show {study.name} --importances` has all numbers."
    )


def _largest(shares: Mapping[str, float]) -> str:
    """Return `hdpl.rank 54 %, loop.count 20 %`: those with the largest shares."""
    best = sorted(shares.items(), key=lambda item: -item[1])
    equals = [name for name, share in best if share > 0.99 * best[0][1]]
    if len(equals) > _MOST:
        return f"{len(equals)} equally with {best[0][1]:.0%} each, {equals[0]} to {equals[-1]}"
    best = best[:_MOST]
    return ", ".join(f"{name} {share:.0%}" for name, share in best if share >= _LEAST) or "none stands out"


def _options(study: Study, scores: Scores, front: Sequence[TrialRecord]) -> str:
    """Return a table of the replacements: their scores over the layers, and their use on the front."""
    replacements = study.space.replacements
    assert replacements is not None
    short = short_labels(replacements)
    by_option: dict[tuple[str, str], list[Part]] = {}
    for part in replacements.parts:
        for label in part.labels:
            if label != KEEP:
                by_option.setdefault((part.part, label), []).append(part)
    searched = [record for record in front if record.params]
    rows = []
    for (kind, label), parts in by_option.items():
        ranked = sorted(parts, key=lambda part: scores.kl[part.name, label].mean)
        values = [scores.kl[part.name, label].mean for part in ranked]
        used = sum(record.params.get(part.name) == label for record in searched for part in parts)
        share = f"{used / (len(searched) * len(parts)):.0%}" if searched else ""
        ends = [f"{brief(values[at])} (layer {ranked[at].layer})" for at in (0, -1)]
        rows.append([kind, short[kind, label], brief(median(values)), *ends, share])
    head = ["part", "replacement", "median score", "lowest", "highest", "share of the front's layers"]
    return markdown_table(head, sorted(rows, key=lambda row: (row[0] != "mixer", float(row[2]))))


def _agreement(study: Study, scores: Scores, records: Sequence[TrialRecord]) -> Iterator[str]:
    """Yield how well the scores' sum orders the designs that were measured."""
    replacements = study.space.replacements
    assert replacements is not None
    pairs = [
        (scores.predicted({part.name: record.params[part.name] for part in replacements.parts}), kl)
        for record in records
        if record.state == DONE
        and all(part.name in record.params for part in replacements.parts)
        and (kl := record.metrics.get("kl")) is not None
    ]
    if len(pairs) < FEWEST_RANKS:
        return
    predicted, measured = np.array(pairs).T
    value = float(spearman(predicted, measured))
    if value == value:
        yield (
            f"Scores explain what is measured: their sum over a design's replacements and its measured KL "
            f"have a rank correlation of {value:.2f} (Spearman, {len(pairs)} designs; 1 is the same order)."
        )
