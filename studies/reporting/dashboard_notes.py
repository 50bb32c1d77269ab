"""Notes for Optuna Dashboard: the architecture, its picture, costs and YAML of every trial."""

from __future__ import annotations

import hashlib

import optuna

from studies.reporting.explanation import Explainer
from studies.reporting.markdown import markdown_table
from studies.reporting.score_map import ScoreMap, scores_of
from studies.storage.optuna_access import as_trial, set_study_system_attr, study_system_attrs
from studies.study import Study
from studies.study.trial_record import DONE, INFEASIBLE, TrialRecord
from surgery.architecture.costs import cost
from surgery.architecture.metrics import METRICS, Metric, parse_metric
from surgery.architecture.strip import plain_strip

_DIGEST = "nas:note"  # system attribute: digest of the last note written, so that users' edits are kept


def write_notes(study: Study) -> int:
    """Update the notes and return how many were written. Notes that a user edited are not changed."""
    from optuna_dashboard import get_note, save_note

    written = 0

    def put(key: str, target: optuna.Study | optuna.Trial, body: str) -> None:
        nonlocal written
        last = study_system_attrs(study.inner).get(f"{_DIGEST}:{key}")
        digest = _digest(body)
        if digest == last:
            return
        there = get_note(target)
        if there and _digest(there) != last:
            return
        save_note(target, body)
        set_study_system_attr(study.inner, f"{_DIGEST}:{key}", digest)
        written += 1

    scores = scores_of(study)
    explainer = None if scores is None else Explainer(study.space, scores)
    for trial in study.inner.get_trials(deepcopy=False):
        record = TrialRecord.read(trial)
        if record.architecture is not None:
            put(str(record.number), as_trial(study.inner, trial), trial_note(study, record, explainer))
    put("study", study.inner, study_note(study))
    return written


def trial_note(study: Study, record: TrialRecord, explainer: Explainer | None = None) -> str:
    """Return the Markdown note of one trial; with an explainer also what each replacement costs and saves."""
    why = None if explainer is None else explainer.explain(record)
    architecture = record.build()
    named = {item.name for item in study.space.objectives} | {item.name for item in study.space.constraints}
    names = [name for name, metric in METRICS.items() if metric.analytic and not metric.takes_context]
    names += sorted(name for name in named if "@" in name and parse_metric(name)[0].analytic)
    rows = []
    for name in names:
        metric, _ = parse_metric(name)
        rows.append([name, _formatted(metric, cost(architecture, name))])
    for name, value in {**record.measured, **record.metrics}.items():
        metric, _ = parse_metric(name)
        if not metric.analytic:
            rows.append([name, _formatted(metric, value)])
    broken = [f"- {violation}" for violation in study.space.violations(architecture)]
    reason = record.reason if record.state != INFEASIBLE else ""
    parts = [
        f"## {record.name} {record.state}",
        f"`{record.line}` `{record.hash}`",
        f"```\n{plain_strip(architecture)}\n```",
        *([f"**{reason}**"] if reason else []),
        *([f"Held-out loss {rungs} of its tokens."] if (rungs := _rungs(study, record)) else []),
        *(["Breaks constraints:\n" + "\n".join(broken)] if broken else []),
        *([why.markdown()] if why is not None else []),
        markdown_table(["metric", "value"], rows),
        *(
            [f"Hyperparameters without effect: {'; '.join(warnings)}"]
            if (warnings := architecture.warnings())
            else []
        ),
        f"```yaml\n{architecture.to_yaml().strip()}\n```",
    ]
    return "\n\n".join(parts)


def _rungs(study: Study, record: TrialRecord) -> str:
    return record.at_rungs(study.space.proxy.rungs)


def study_note(study: Study) -> str:
    """Return the Markdown note of the study: settings, front with architectures, scores, the space file."""
    objectives = study.space.objectives
    rows = [
        [
            record.name,
            f"`{record.line}`",
            *(item.metric.format(value) for item, value in zip(objectives, record.values or (), strict=True)),
        ]
        for record in study.front()
    ]
    done = sum(record.state == DONE for record in study.records())
    settings = study.settings
    parts = [
        f"## {study.name}",
        f"Text {settings.corpus}, tokenizer {settings.tokenizer}, sampler {settings.sampler}, "
        f"stopping {settings.stopping}, seed {settings.seed}. {len(rows)} of {done} trained architectures "
        "are on the front.",
        *(
            [markdown_table(["trial", "architecture", *(item.name for item in objectives)], rows)]
            if rows
            else []
        ),
        *_scores(study),
        "In the pictures each column is a layer, `·` is a dense projection, and `■` another operator. "
        "Trials shown as pruned were not trained: they break a constraint or duplicate another one. "
        "Those shown as running may be paused at a rung, to be resumed when promising: their notes say so.",
        f"```yaml\n{study.space.text.strip()}\n```",
    ]
    return "\n\n".join(parts)


def _scores(study: Study) -> list[str]:
    """Return a paragraph and a table of each kind of scores of replacements, if the study has them."""
    if scores_of(study) is None:
        return []
    lines = []
    for scores in ScoreMap.of(study):
        lines += [f"Scores of replacements in `{scores.model}`: {scores.legend}.", scores.markdown()]
    return lines


def _formatted(metric: Metric, value: float) -> str:
    unit = "" if metric.unit == "bytes" else f" {metric.unit}"
    return f"{metric.format(value)}{unit}"


def _digest(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()[:16]
