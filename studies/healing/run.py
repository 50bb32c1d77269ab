"""A surgery with its healing from the first to the last step, as `nas apply` runs it, for Python programs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from studies.healing.request import ApplyRequest
from surgery.apply.pipeline import ApplyReport
from surgery.architecture import Architecture


def apply(
    architecture: str | os.PathLike[str] | Mapping[str, Any] | Architecture,
    model: str,
    output: str | os.PathLike[str] | None = None,
    **options: Any,
) -> ApplyReport:
    """Rewrite a pretrained model, heal it if `heal` is given, verify the result and write it.

    Args:
        architecture: a file, its data, or an architecture; missing fields of the backbone are the model's.
        model: a folder or a Hub id.
        output: folder for the result; None only with `dry_run=True`.
        options: of `ApplyRequest`, such as `heal`, `control` and `device`.

    Raises:
        UserError: model, architecture, options, text or output can't be used, or the verification failed.
        TrainingFailed: the loss is not finite or exploded.
    """
    surgery = ApplyRequest(architecture, model, output, **options).plan()
    return surgery.run(surgery.healer(surgery.open_text()))
