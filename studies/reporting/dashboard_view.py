"""Optuna Dashboard's answers as nas means them: importances, paused trials, the front, readable attributes.

A WSGI application in front of the dashboard's own. It also serves the study's report, and links it and the
study's note from every page. Nothing but notes is changed in the storage.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import parse_qs

from studies.reporting.importance_map import ImportanceMap
from studies.reporting.part_map import PartMap
from studies.storage.attributes import (
    ARCHITECTURE,
    BASELINE,
    DEATHS,
    ENVIRONMENT,
    LINE,
    MEASURED,
    METRICS,
    PASSED,
    REASON,
    RUNGS,
    SECONDS,
    SEEDS,
    STOPPED_AT,
)
from studies.storage.optuna_access import study_id
from studies.study import Study
from studies.study.trial_names import Names
from studies.study.trial_record import DONE, PAUSED, TrialRecord
from surgery.architecture.metrics import parse_metric

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
_HIDDEN = (ARCHITECTURE, "heartbeat", "worker", DEATHS, PASSED)  # the note has the architecture
_NAMES = {LINE: "architecture"}
_FIRST = (BASELINE, "paused", REASON, "architecture", "loss at rungs", "suggested by")  # the others as stored


REPORT = "/report"  # path of the study's page
_SHOWN_FIRST = ("front", "baselines", "importances", "layers", "scores", "curves", "hypervolume")
# Optuna's page leaves no room between the columns of a note's table
_LINKS = """
<style>
.MuiCardContent-root table:not([class]) :is(th, td) {{ padding: 2px 16px 2px 0; text-align: left }}
.MuiCardContent-root table:not([class]) td:first-child {{ white-space: nowrap }}
</style>
<nav style="position: fixed; top: 20px; right: 24px; z-index: 2000; font: 15px sans-serif">
<a style="color: #fff; margin-left: 16px" href="{report}">report</a>
<a style="color: #fff; margin-left: 16px" href="/dashboard/studies/{number}/note">study note</a></nav>
</body>"""


def _changes(method: str, path: str) -> bool:
    """Return whether a request would change anything but a note: delete a study, say, or end a trial."""
    return method not in ("GET", "HEAD", "OPTIONS") and not (method == "PUT" and path.endswith("/note"))


class DashboardView:
    """The application that serves one study of a storage, and passes everything else on."""

    def __init__(self, app: Application, study: Study, report: Callable[[Study], str]) -> None:
        self.app, self.study, self.report = app, study, report
        self._detail = f"/api/studies/{study_id(study.inner)}"
        self._names = Names(study.space)
        self._lock = threading.Lock()  # requests come in threads
        self._importances: tuple[int, ImportanceMap | PartMap | None] = (-1, None)

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer a request."""
        path = environ.get("PATH_INFO", "").rstrip("/")
        if _changes(environ.get("REQUEST_METHOD", "GET"), path):
            body = json.dumps({"reason": "nas dashboard changes nothing but notes"}).encode()
            start_response("403 Forbidden", [("Content-Type", "application/json")])
            return [body]
        if environ.get("REQUEST_METHOD") == "GET" and path == f"{self._detail}/param_importances":
            with self._lock:
                body = json.dumps({"param_importances": self._shares()}).encode()
            start_response("200 OK", [("Content-Type", "application/json")])
            return [body]
        if environ.get("REQUEST_METHOD") == "GET" and path == REPORT:
            with self._lock:
                body = self.report(self.study).encode()
            start_response("200 OK", [("Content-Type", "text/html; charset=utf-8")])
            return [body]
        if environ.get("REQUEST_METHOD") == "GET" and path.startswith("/dashboard"):
            return self._changed(environ, start_response, self._with_links)
        if environ.get("REQUEST_METHOD") != "GET" or path != self._detail:
            return self.app(environ, start_response)
        # all trials, so that the best trials and the columns of attributes are complete
        after = parse_qs(environ.get("QUERY_STRING", "")).get("after", ["0"])[0]
        environ["QUERY_STRING"] = "after=0"
        return self._changed(
            environ, start_response, lambda body: json.dumps(self._study(json.loads(body), after)).encode()
        )

    def _changed(
        self,
        environ: dict[str, Any],
        start_response: Callable[..., Any],
        change: Callable[[bytes], bytes],
    ) -> Iterable[bytes]:
        """Return the dashboard's answer; `change` makes the body of one that succeeded."""
        answer: dict[str, Any] = {}

        def started(status: str, headers: list[tuple[str, str]], *rest: Any) -> Callable[[bytes], None]:
            answer.update(status=status, headers=headers)
            return lambda data: None

        body = b"".join(self.app(environ, started))
        if answer["status"].startswith("200"):
            with self._lock:
                body = change(body)
        headers = [item for item in answer["headers"] if item[0].lower() != "content-length"]
        start_response(answer["status"], [*headers, ("Content-Length", str(len(body)))])
        return [body]

    def _with_links(self, body: bytes) -> bytes:
        """Return a page of the dashboard with links to the report and the study's note."""
        links = _LINKS.format(report=REPORT, number=study_id(self.study.inner))
        return body.replace(b"</body>", links.encode(), 1)

    def _shares(self) -> list[list[dict[str, Any]]]:
        """Return our importances in the dashboard's form; empty for an objective while they are not known.

        For a pretrained model they are shares of its parts in the scores and costs.
        """
        records = [record for record in self.study.records() if record.state == DONE]
        if self._importances[0] != len(records):
            self._importances = len(records), ImportanceMap.of(self.study) or PartMap.of(self.study)
        known = self._importances[1]
        objectives = [item.name for item in self.study.space.objectives]
        if known is None:
            return [[] for _ in objectives]
        kinds = {
            name: type(distribution).__name__
            for trial in self.study.inner.get_trials(deepcopy=False)
            for name, distribution in trial.distributions.items()
        }
        return [
            [
                {"name": name, "importance": share, "distribution": kinds.get(name, "")}
                for name, share in shares.items()
            ]
            for shares in known.of_objectives(objectives)
        ]

    def _study(self, answer: dict[str, Any], after: str) -> dict[str, Any]:
        """Return the study with our front as best trials, paused trials as waiting ones, and words.

        Args:
            answer: the dashboard's own.
            after: number of the first trial that is asked for.
        """
        records = {record.number: record for record in self.study.records()}
        paused = {number for number, record in records.items() if record.state == PAUSED}
        for trial in (*answer["trials"], *answer["best_trials"]):
            trial["user_attrs"] = self._words(trial["user_attrs"], records.get(trial["number"]))
            if trial["number"] in paused:
                trial["state"] = "Waiting"
                # the page shows only those of a waiting trial
                trial["fixed_params"] = [
                    {key: item[key] for key in ("name", "param_external_value")} for item in trial["params"]
                ]
        front = {record.number for record in self.study.front()}
        shown = {trial["number"]: trial for trial in (*answer["best_trials"], *answer["trials"])}
        answer["best_trials"] = [shown[number] for number in sorted(front & set(shown))]
        answer["user_attrs"] = self._settings()
        answer["union_user_attrs"] = self._columns(answer)
        answer["plotly_graph_objects"].sort(key=lambda graph: _position(str(graph["id"])))
        answer["trials"] = answer["trials"][int(after) if after.isdecimal() else 0 :]
        return answer

    def _columns(self, answer: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the attributes that any trial has, for the dashboard's tables."""
        names = dict.fromkeys(item["key"] for trial in answer["trials"] for item in trial["user_attrs"])
        known = {item["key"]: item["sortable"] for item in answer["union_user_attrs"]}
        return [{"key": key, "sortable": known.get(key, False)} for key in names]

    def _settings(self) -> list[dict[str, str]]:
        settings, space = self.study.settings, self.study.space
        entries = {
            "space": f"{space.name} {space.digest}",
            "objectives": ", ".join(f"{item.name} ({item.direction})" for item in space.objectives),
            "constraints": ", ".join(map(str, space.constraints)) or "none",
            "text": settings.corpus,
            "tokenizer": settings.tokenizer,
            "sampler": settings.sampler,
            "stopping": settings.stopping,
            "seed": str(settings.seed),
        }
        return [{"key": key, "value": value} for key, value in entries.items()]

    def _words(self, attributes: list[dict[str, str]], record: TrialRecord | None) -> list[dict[str, str]]:
        """Return a trial's attributes as a person reads them: one line per value, with its unit."""
        entries: dict[str, str] = {}
        for item in attributes:
            key, text = item["key"], item["value"]
            if key in _HIDDEN or text == "null":
                continue
            if key in (METRICS, MEASURED):
                entries |= {name: _with_unit(name, value) for name, value in _read(text, {}).items()}
            elif key == ENVIRONMENT:
                entries |= {name: str(value) for name, value in _read(text, {}).items()}
            elif key == RUNGS:
                fractions = self.study.space.proxy.rungs
                losses = zip(fractions, _read(text, []), strict=False)
                entries["loss at rungs"] = ", ".join(f"{loss:.4f} at {share:.0%}" for share, loss in losses)
            elif key == SEEDS:
                entries["seeds"] = ", ".join(map(str, _read(text, [])))
            elif key == SECONDS:
                entries["training time"] = f"{float(text):.1f} s"
            elif key == STOPPED_AT:
                entries["paused"] = f"at rung {text}, to be resumed if promising"
            else:
                entries[_NAMES.get(key, key.replace("_", " "))] = text
        if record is not None and record.line:
            entries["architecture"] = self._names.design(record)
        if BASELINE in entries:
            entries[BASELINE] = self._names.label(entries[BASELINE])
        order = [*(key for key in _FIRST if key in entries), *entries]
        return [{"key": key, "value": entries[key]} for key in dict.fromkeys(order)]


def _position(name: str) -> tuple[int, str]:
    """Return the position of a graph, by its name such as `nas-1-front-0`; a user's own graphs come last."""
    kind = next((kind for kind in _SHOWN_FIRST if kind in name.split("-")), None)
    return (len(_SHOWN_FIRST) if kind is None else _SHOWN_FIRST.index(kind)), name


def _read(text: str, default: Any) -> Any:
    try:
        return json.loads(text)
    except ValueError:  # the dashboard cuts off long ones
        return default


def _with_unit(name: str, value: float) -> str:
    try:
        metric, _ = parse_metric(name)
    except ValueError:  # of another version
        return str(value)
    unit = "" if metric.unit == "bytes" else f" {metric.unit}"
    return f"{metric.format(value)}{unit}"
