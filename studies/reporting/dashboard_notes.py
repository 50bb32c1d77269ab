"""Notes for Optuna Dashboard: the architecture, its picture, costs and YAML of every trial."""

from __future__ import annotations

import hashlib
from typing import Any

import optuna

from search_spaces.shown_costs import shown_costs
from studies.analysis.marks import Marks
from studies.analysis.standings import Standings
from studies.reporting.explanation import Explainer
from studies.reporting.folded_yaml import architecture_yaml
from studies.reporting.key_of_letters import key_of_letters, key_of_names
from studies.reporting.markdown import markdown_table
from studies.reporting.picked import commands, why_picked
from studies.reporting.score_map import scores_of
from studies.reporting.study_note import study_note
from studies.storage.optuna_access import as_trial, set_study_system_attr, study_system_attrs
from studies.study import Study
from studies.study.picks import Pick
from studies.study.trial_names import Names
from studies.study.trial_record import INFEASIBLE, PAUSED, TrialRecord
from surgery.architecture.costs import cost
from surgery.architecture.metrics import Metric, parse_metric
from surgery.architecture.strip import plain_strip

_DIGEST = "nas:note"  # system attribute: digest of the last note written, so that users' edits are kept


class Notes:
    """Writer of a study's notes; those of trials are written again only if the trial has changed."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self._known: dict[int, tuple[TrialRecord, bool, Pick | None, str]] = {}
        self._names = Names(study.space)
        self._explainer: Explainer | None = None

    def write(self) -> int:
        """Update the notes and return how many were written. Notes that a user edited are not changed."""
        study = self.study
        space = study.space
        if self._explainer is None and space.costs_known and (scores := scores_of(study)) is not None:
            self._explainer = Explainer(space, scores)
            self._known.clear()  # notes say more with scores
        front = {record.number for record in study.front()}
        marks = Marks.of(study, Standings.of(study))
        bodies: list[tuple[str, optuna.Study | optuna.Trial, str]] = []
        trials = study.inner.get_trials(deepcopy=False)
        for record in study.records()[: len(trials)]:
            pick = marks.pick_of(record)
            since = "" if pick is None else marks.since(pick)
            state = (record, record.number in front, pick, since)
            if record.architecture is None or self._known.get(record.number) == state:
                continue
            target = as_trial(study.inner, trials[record.number])
            body = trial_note(
                study, record, self._explainer, names=self._names, on_front=state[1], pick=pick, since=since
            )
            bodies.append((str(record.number), target, body))
            self._known[record.number] = state
        bodies.append(("study", study.inner, study_note(study)))
        with study.batched_writes():
            known = study_system_attrs(study.inner)
            return sum(self._put(known, *note) for note in bodies)

    def _put(self, known: dict[str, Any], key: str, target: optuna.Study | optuna.Trial, body: str) -> bool:
        """Store a note, unless it is there or was edited; `known` are the study's system attributes."""
        from optuna_dashboard import get_note, save_note

        last, digest = known.get(f"{_DIGEST}:{key}"), _digest(body)
        if digest == last:
            return False
        there = get_note(target)
        if there and _digest(there) != last:
            return False
        save_note(target, body)
        set_study_system_attr(self.study.inner, f"{_DIGEST}:{key}", digest)
        return True


def write_notes(study: Study) -> int:
    """Update the notes of a study once, and return how many were written."""
    return Notes(study).write()


def trial_note(
    study: Study,
    record: TrialRecord,
    explainer: Explainer | None = None,
    *,
    names: Names | None = None,
    on_front: bool = False,
    pick: Pick | None = None,
    since: str = "",
) -> str:
    """Return the Markdown note of one trial.

    Args:
        study: of the trial.
        record: of the trial.
        explainer: that says what each replacement costs and saves; None: the note does not.
        names: of the study's trials.
        on_front: whether it is on the front.
        pick: of the trial; None: it was not picked.
        since: what the pick was, and what has its place now; empty if nothing has.
    """
    names = names or Names(study.space)
    name, design = names.name(record), names.design(record)
    why = None if explainer is None else explainer.explain(record)
    architecture = record.build()
    known: dict[str, float] = {item: cost(architecture, item) for item in shown_costs(study.space)}
    known |= record.measured | record.metrics
    rows = [[item, _formatted(parse_metric(item)[0], value)] for item, value in known.items()]
    broken = [f"- {violation}" for violation in study.space.violations(architecture)]
    reason = record.reason if record.state != INFEASIBLE else ""
    words = [_state(study, record), *(["on the front"] if on_front else []), *(["picked"] if pick else [])]
    parts = [
        f"## {name} {', '.join(words)}",
        f"`{design}` `{record.hash}`",
        *([f"In full: `{record.line}`"] if design != record.line else []),
        f"```\n{plain_strip(architecture)}\n```",
        f"{key_of_letters(architecture)} {key_of_names([design])}".strip(),
        *([f"**{reason}**"] if reason else []),
        *([why_picked(pick, since), commands(study, pick)] if pick is not None else []),
        *([f"Held-out loss {rungs} of its tokens."] if (rungs := _rungs(study, record)) else []),
        *(["Breaks constraints:\n" + "\n".join(broken)] if broken else []),
        *([why.markdown()] if why is not None else []),
        markdown_table(["metric", "value"], rows),
        *(
            [f"Hyperparameters without effect: {'; '.join(warnings)}"]
            if (warnings := architecture.warnings())
            else []
        ),
        f"```yaml\n{architecture_yaml(architecture)}\n```",
    ]
    return "\n\n".join(parts)


def _state(study: Study, record: TrialRecord) -> str:
    if record.state == PAUSED:
        return f"paused at rung {len(record.rungs)} of {len(study.space.proxy.rungs)}"
    return record.word


def _rungs(study: Study, record: TrialRecord) -> str:
    return record.at_rungs(study.space.proxy.rungs)


def _formatted(metric: Metric, value: float) -> str:
    unit = "" if metric.unit == "bytes" else f" {metric.unit}"
    return f"{metric.format(value)}{unit}"


def _digest(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()[:16]
