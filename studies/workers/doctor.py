"""Checks of `nas doctor`: versions, devices, kernels, prepared text, and a study's storage and files."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from studies.data.prepared import list_prepared
from studies.files.home import data_home
from studies.storage.journal_lines import START, read
from studies.storage.opening import JOURNAL
from studies.study import Study
from studies.study.leases import dead, statuses
from studies.study.trial_record import FAILED, RUNNING
from studies.training.cores import cores
from studies.training.devices import describe
from surgery.config.problems import UserError
from surgery.ops.kernels import AVAILABLE

PACKAGES = (
    "torch",
    "transformers",
    "optuna",
    "safetensors",
    "tokenizers",
    "datasets",
    "huggingface-hub",
    "numpy",
)
OK, WARNING, FAULT = "ok", "warning", "fault"


@dataclass(frozen=True)
class Finding:
    """One result of a check.

    Attributes:
        what: the subject of the check.
        state: OK, WARNING or FAULT.
        result: description of the result.
        hint: suggested fix; empty if there is none.
    """

    what: str
    state: str
    result: str
    hint: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the finding for `--json`; its keys are stable."""
        return {"what": self.what, "state": self.state, "found": self.result, "hint": self.hint}


def examine_machine() -> list[Finding]:
    """Check versions, devices, kernels and prepared text of this machine."""
    findings = []
    missing = []
    versions = []
    for name in PACKAGES:
        try:
            versions.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    findings.append(Finding("packages", OK, ", ".join(versions)))
    if missing:
        findings.append(Finding("packages", FAULT, f"missing: {', '.join(missing)}", "install nas-cli again"))
    cpu = describe(torch.device("cpu"))
    findings.append(Finding("CPU", OK, f"{cpu['device']}, {cores()} cores, python {cpu['python']}"))
    findings += _gpus()
    findings.append(_text())
    return findings


def _gpus() -> list[Finding]:
    """Check each GPU: its memory, and whether it computes."""
    if not torch.cuda.is_available():
        return [Finding("GPU", OK, "none: everything runs on the CPU")]
    findings = []
    for index in range(torch.cuda.device_count()):
        device = torch.device("cuda", index)
        try:
            torch.ones(8, device=device).sum().item()
            free, total = torch.cuda.mem_get_info(device)
            name = torch.cuda.get_device_name(device)
            memory = f"{name}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
            findings.append(Finding(f"GPU {index}", OK, memory))
        except (RuntimeError, AssertionError) as error:
            findings.append(Finding(f"GPU {index}", FAULT, str(error).splitlines()[0]))
    kernels = (
        "Triton compiles them" if AVAILABLE else "Triton is missing: operators run without their kernels"
    )
    findings.append(Finding("kernels", OK if AVAILABLE else WARNING, kernels))
    return findings


def _text() -> Finding:
    home = data_home()
    try:
        prepared = list_prepared()
    except OSError as error:
        hint = "set NAS_HOME to another folder"
        return Finding("text", WARNING, f"{home}: {error.strerror or error}", hint)
    unfinished = [item.folder.name for item in prepared if not item.finished]
    summary = f"{len(prepared)} prepared in {home}"
    if unfinished:
        hint = "the nas data prepare that began them resumes them"
        return Finding("text", WARNING, f"{summary}, not finished: {', '.join(unfinished)}", hint)
    folder = home
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not os.access(folder, os.W_OK):
        return Finding("text", WARNING, f"{summary}; the folder can't be written", "set NAS_HOME to another")
    return Finding("text", OK, summary)


def examine_study(name: str, runs: Path, url: str | None) -> list[Finding]:
    """Check whether a study can be read, its workers, and whether its fields have an effect.

    Raises:
        UserError: there is no such study.
    """
    try:
        study = Study.open(name, runs, url)
    except UserError as error:
        if not any(problem.line is not None for problem in error.problems):
            raise
        return [Finding("storage", FAULT, str(problem), "") for problem in error.problems]
    records = study.records()
    states = Counter(record.word for record in records)
    findings = [Finding("storage", OK, _storage(study))]
    counts = ", ".join(f"{count} {state}" for state, count in states.items()) or "none yet"
    findings.append(Finding("trials", WARNING if states[FAILED] else OK, counts))
    findings.append(_workers(study, states[RUNNING]))
    here = os.path.isfile(Path(study.settings.data_folder) / "meta.json")  # False where it is not readable
    source = f"{study.settings.corpus} in {study.settings.data_folder}"
    hint = "" if here else "workers prepare it again"
    findings.append(
        Finding("data", OK if here else WARNING, source if here else f"{source}: not there", hint)
    )
    if not os.access(study.folder, os.W_OK):
        findings.append(Finding("folder", WARNING, f"{study.folder} can't be written: it can only be read"))
    damaged = sorted(path.name for path in study.folder.glob(f"{JOURNAL}.damaged-*"))
    if damaged:
        findings.append(Finding("repairs", OK, f"damaged journals were kept: {', '.join(damaged)}"))
    warnings = study.space.warnings()
    findings += [Finding("space", WARNING, warning) for warning in warnings]
    return findings


def _storage(study: Study) -> str:
    if study.url is not None:
        return "a database that answers"
    position = START
    for after, _ in read(study.folder / JOURNAL):
        position = after
    return f"{study.folder / JOURNAL}: {position.lines} lines, none damaged"


def _workers(study: Study, running: int) -> Finding:
    alive, gone = statuses(study.workers_folder), dead(study.workers_folder)
    summary = f"{len(alive)} training, {running} trials running"
    if gone:
        return Finding(
            "workers", WARNING, f"{summary}, {len(gone)} died", "the next search requeues their trials"
        )
    return Finding("workers", OK, summary)
