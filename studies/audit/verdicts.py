"""Verdicts of the audits that a study has, in a paragraph each."""

from __future__ import annotations

import re

from studies.audit.plan import open_audit
from studies.audit.report import report
from studies.study import Study

_NAME = re.compile(r"(\d+)x|heal-(\d+)")


def verdicts(study: Study) -> list[str]:
    """Return the verdict of every audit that has results, by its folder's name."""
    paragraphs = []
    for folder in sorted((study.folder / "audit").glob("*")):
        name = _NAME.fullmatch(folder.name)
        if name is None or not any(folder.glob("*-*.json")):
            continue
        heal = int(name[2]) if name[2] else None
        result = report(open_audit(study, int(name[1] or 1), 2, heal))
        what = f"Healed on {heal:,} tokens" if heal is not None else f"Trained {name[1]} times as long"
        paragraphs.append(f"**{what}, {len(result.points)} architectures.** {result.verdict}")
    return paragraphs
