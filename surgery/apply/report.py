"""What a surgery says about itself in the model card."""

from __future__ import annotations

from collections.abc import Sequence

from surgery.apply.fit import FitReport
from surgery.apply.plan import Plan
from surgery.apply.verify import Verification
from surgery.architecture.rules import write_layers
from surgery.hf.card import table


def sections(plan: Plan, fits: Sequence[FitReport], verification: Verification) -> str:
    """Markdown: origin, tensors, fit errors, verification."""
    parts = [_origin(plan)]
    known = plan.after.warnings()  # the card lists those itself
    if warnings := [text for text in plan.warnings if text not in known]:
        parts += ["## Warnings", "\n".join(f"- {text}" for text in warnings)]
    if fits:
        parts += ["## Fit, before any training", fit_table(fits)]
    parts += ["## Verification", _verified(verification)]
    return "\n\n".join(parts)


def fit_table(fits: Sequence[FitReport]) -> str:
    """Mean and worst errors of each projection over the layers."""
    groups: dict[tuple[str, str], list[FitReport]] = {}
    for fit in fits:
        groups.setdefault((fit.projection, fit.operator), []).append(fit)
    rows = []
    for (projection, operator), found in groups.items():
        worst = max(found, key=lambda fit: fit.output_error or fit.weight_error)
        outputs = [fit.output_error for fit in found if fit.output_error is not None]
        rows.append(
            [
                projection,
                operator,
                write_layers(tuple(fit.layer for fit in found), 0) or "all",
                f"{sum(fit.weight_error for fit in found) / len(found):.3f}",
                f"{sum(outputs) / len(outputs):.3f}" if outputs else "not measured",
                str(worst.layer),
            ]
        )
    head = ["projection", "operator", "layers", "weight error", "output error", "worst layer"]
    note = (
        "Means over layers, relative: of the weights (Frobenius norm), and of the outputs on the calibration "
        "text (root mean square)."
    )
    return f"{table(head, rows)}\n\n{note}"


def _origin(plan: Plan) -> str:
    counts = {
        "carried bit for bit": plan.count("kept"),
        "averaged over folded layers": plan.count("averaged"),
        "fitted": plan.count("fitted"),
        "new": plan.count("new"),
    }
    told = ", ".join(f"{number} {what}" for what, number in counts.items() if number)
    return f"Made by `nas apply` out of `{plan.title}` ({plan.family}, `{plan.before}`). Tensors: {told}."


def _verified(found: Verification) -> str:
    return (
        f"Loaded in a fresh process (transformers {found.transformers}, torch {found.torch}) and compared in "
        f"{found.dtype} with the model in memory: logits differ by at most {found.max_logit_difference:.1e}, "
        f"the largest being {found.max_logit:.1f}; "
        f"greedy generation with and without cache agrees on "
        f"{found.equal_tokens} of {found.new_tokens} tokens."
    )
