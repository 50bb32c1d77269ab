"""The whole surgery, atomically: read, plan, execute, write, verify, and add the model card."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from surgery.apply.calibrate import Calibration
from surgery.apply.defaults import generation_defaults
from surgery.apply.execute import rewrite
from surgery.apply.fit import FitReport, check_form
from surgery.apply.plan import Plan, plan
from surgery.apply.report import sections
from surgery.apply.source import SourceModel, ValueCheck, read_source
from surgery.apply.stock_export import write_as
from surgery.apply.verify import Verification, Verifier
from surgery.architecture import Architecture
from surgery.hf.card import card
from surgery.hf.lazy import LazyModel
from surgery.hf.staging import check_target, staged
from surgery.hf.weights import Progress
from surgery.hf.written import TOKENIZER_FILES
from surgery.model import HybridLM

Heal = Callable[[HybridLM], str]  # trains the model in place; returns Markdown for the card


@dataclass(frozen=True)
class ApplyReport:
    """Report on a surgery. `out`, `fits` and `verification` are empty after a dry run."""

    plan: Plan
    out: Path | None = None
    fits: tuple[FitReport, ...] = ()
    verification: Verification | None = None
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for `--json`."""
        return {
            "plan": self.plan.to_dict(),
            "out": str(self.out) if self.out is not None else None,
            "fits": [fit.to_dict() for fit in self.fits],
            "verification": self.verification.to_dict() if self.verification is not None else None,
            "seconds": self.seconds,
        }


def apply(
    model: str | os.PathLike[str] | SourceModel,
    architecture: str | os.PathLike[str] | Mapping[str, Any] | Architecture,
    out: str | os.PathLike[str] | None,
    *,
    dry_run: bool = False,
    fold: str = "average",
    calibration: Calibration | None = None,
    hdpl_fit: str = "full",
    heal: Heal | None = None,
    on_verified: Callable[[], None] | None = None,
    stock: bool = True,
    overwrite: bool = False,
    device: str | torch.device = "cpu",
    progress: Progress | None = None,
) -> ApplyReport:
    """Rewrite a checkpoint into an architecture and verify that the result loads.

    Args:
        model: a local folder, a Hub id, or a checkpoint already opened by `read_source`.
        architecture: a YAML file, plain data or an architecture; see `plan`.
        out: the folder to write; may be None in a dry run.
        dry_run: stop after the plan and all checks that need no writing.
        fold: `average` or `first`, see `plan`.
        calibration: texts or token ids to fit operators to; without it weights are fitted, not outputs.
        hdpl_fit: form of fitted latents, `full` or `paired`, see `fit_hdpl`.
        stock: see `plan`.
        heal: trains the model between fitting and writing.
        on_verified: called once the result is verified, just before it is moved to `out`.
        overwrite: replace an existing model at `out`.
        progress: called with (stage, done, total).

    Raises:
        UserError: the request is invalid (before anything is written), `out` can't be written, or the
            verification failed. No partial output is left behind.
    """
    began = time.monotonic()
    check_form(hdpl_fit)
    source = model if isinstance(model, SourceModel) else read_source(model)
    planned = plan(source, architecture, fold=fold, out=out, stock=stock)
    if out is not None:
        check_target(out, overwrite=overwrite, source=source.folder)
    check = ValueCheck(source)
    if dry_run or planned.uses_text or heal is not None:
        check.finish()  # else tensors are checked when they are carried, and nothing is computed from them
    if dry_run:
        return ApplyReport(planned, seconds=time.monotonic() - began)
    assert out is not None, "only a dry run has no output"
    planned.check_disk()
    rewritten, fits = rewrite(
        source, planned,
        calibration=calibration, hdpl_fit=hdpl_fit, device=device, progress=progress, check=check,
    )  # fmt: skip
    healed = ""
    if heal is not None:
        built = rewritten.read()
        healed = heal(built)
        rewritten = LazyModel.of(built.eval())
    verification = publish(
        rewritten, source, planned, fits, out,
        text=healed, check=check, on_verified=on_verified, overwrite=overwrite, progress=progress,
    )  # fmt: skip
    return ApplyReport(planned, Path(out), fits, verification, time.monotonic() - began)


def publish(
    model: LazyModel,
    source: SourceModel,
    planned: Plan,
    fits: tuple[FitReport, ...],
    out: str | os.PathLike[str],
    *,
    text: str = "",
    check: ValueCheck | None = None,
    on_verified: Callable[[], None] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Verification:
    """Write the model's folder, verify it in a fresh process, add the card, and move it to `out`.

    Args:
        model: the new model, which is written tensor by tensor.
        source: the checkpoint.
        planned: the plan that made the model.
        fits: reports for the card.
        out: the folder to write.
        text: Markdown to add to the card.
        check: finished once all tensors are written, before anything is computed from them.
        on_verified: see `apply`.
        overwrite: see `apply`.
        progress: see `apply`.

    Raises:
        UserError: `out` can't be written, the checkpoint's values can't be used, or the verification failed.
            Nothing is left behind.
    """
    has_tokenizer = any((source.folder / name).is_file() for name in TOKENIZER_FILES)
    with staged(out, overwrite=overwrite) as folder:
        with Verifier(folder, remote_code=planned.export.is_stock) as verifier:
            write_as(
                model, planned.export, folder,
                tokenizer_dir=source.folder if has_tokenizer else None,
                generation_config=generation_defaults(source)[0],
                shard_bytes=source.shard_bytes, progress=progress,
            )  # fmt: skip
            if check is not None:
                check.finish()
            verification = verifier.verify(model)
        body = card(
            planned.after,
            title=Path(out).absolute().name,
            text=sections(planned, fits, verification) + ("\n\n" + text if text else ""),
            base_model=source.hub_id,
            before=planned.before,
            model_type=planned.export.model_type,
        )
        (folder / "README.md").write_text(body, encoding="utf-8")
        if on_verified is not None:
            on_verified()
    return verification
