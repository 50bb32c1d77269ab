"""Artifacts of trials for Optuna Dashboard: the architecture as a file, its layers and loss as pictures.

They are in the folder `artifacts` of the study, in the layout of Optuna's `FileSystemArtifactStore`.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path

from studies.reporting.trial_svg import curve_svg, layers_svg
from studies.storage.optuna_access import set_study_system_attr, study_system_attrs, trial_id
from studies.study import Study
from studies.study.trial_names import Names
from studies.study.trial_record import TrialRecord
from surgery.files.atomic import replacing

FOLDER = "artifacts"
_NAMES = uuid.UUID(
    "6f0c1f0e-95a5-4b7e-8d7a-5b1a3f6f4c11"
)  # artifacts have the same ids whenever they are written
_TYPES = {".svg": "image/svg+xml", ".yaml": "text/plain"}


def artifact_folder(study: Study) -> Path:
    """Return the folder of a study's artifacts, which need not exist."""
    return study.folder / FOLDER


def write_artifacts(study: Study, record: TrialRecord) -> int:
    """Write the artifacts of a trial that have changed, and return how many."""
    folder = artifact_folder(study)
    number = trial_id(study.trial(record.number))
    written = 0
    for name, content in _contents(study, record):
        artifact = str(uuid.uuid5(_NAMES, f"{record.hash} {record.number} {name}"))
        path = folder / artifact
        if path.is_file() and path.read_text(encoding="utf-8") == content:
            continue
        folder.mkdir(exist_ok=True)
        with replacing(path, durable=False) as temporary:
            temporary.write_text(content, encoding="utf-8")
        # not among the attributes of the trial: those of a finished one can't be changed
        key = f"dashboard:artifacts:{number}:{artifact}"
        if key not in study_system_attrs(study.inner):
            meta = {
                "artifact_id": artifact, "filename": name, "mimetype": _TYPES[Path(name).suffix],
                "encoding": None,
            }  # fmt: skip
            set_study_system_attr(study.inner, key, json.dumps(meta))
        written += 1
    return written


def _contents(study: Study, record: TrialRecord) -> Iterator[tuple[str, str]]:
    architecture, names = record.build(), Names(study.space)
    yield "layers.svg", layers_svg(architecture)
    curve = curve_svg(study.curve(record.number), f"{names.name(record)} {names.design(record)}")
    if curve is not None:
        yield "curve.svg", curve
    yield "pick.yaml", architecture.to_yaml()
