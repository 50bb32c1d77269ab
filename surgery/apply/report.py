"""Sections of the model card about a surgery."""

from __future__ import annotations

from collections.abc import Sequence

from surgery.apply.fit import FitReport
from surgery.apply.plan import Plan
from surgery.apply.verify import Verification
from surgery.config.selector import write_layers
from surgery.hf.card import table


def sections(plan: Plan, fits: Sequence[FitReport], verification: Verification) -> str:
    """Return Markdown sections: origin, tensors, fit errors, verification."""
    parts = [_origin(plan)]
    listed = plan.after.warnings()  # elsewhere in the card
    if warnings := [text for text in plan.warnings if text not in listed]:
        parts += ["## Warnings", "\n".join(f"- {text}" for text in warnings)]
    if fits:
        parts += ["## Fit, before any training", fit_table(fits)]
    parts += ["## Verification", _verified(verification)]
    return "\n\n".join(parts)


def fit_table(fits: Sequence[FitReport]) -> str:
    """Return a table of the mean errors of each projection, with its worst layer."""
    groups: dict[tuple[str, str], list[FitReport]] = {}
    for fit in fits:
        groups.setdefault((fit.projection, fit.operator), []).append(fit)
    rows = []
    for (projection, operator), group in groups.items():
        worst = max(group, key=lambda fit: fit.output_error or fit.weight_error or 0.0)
        outputs = [fit.output_error for fit in group if fit.output_error is not None]
        weights = [fit.weight_error for fit in group if fit.weight_error is not None]
        rows.append(
            [
                projection,
                operator,
                write_layers(tuple(fit.layer for fit in group), None) or "",
                f"{sum(weights) / len(weights):.3f}" if weights else "",
                f"{sum(outputs) / len(outputs):.3f}" if outputs else "not measured",
                str(worst.layer),
            ]
        )
    head = ["projection", "operator", "layers", "weight error", "output error", "worst layer"]
    note = (
        "Relative errors, averaged over layers: of the weights (Frobenius norm), and of the outputs on the "
        "calibration text (root mean square; 1 if the part is silent)."
    )
    return f"{table(head, rows)}\n\n{note}"


def _origin(plan: Plan) -> str:
    counts = {
        "carried bit for bit": plan.count("kept"),
        "averaged over folded layers": plan.count("averaged"),
        "fitted": plan.count("fitted"),
        "transplanted": plan.count("transplanted"),
        "pruned": plan.count("pruned"),
        "silent": plan.count("silent"),
        "new": plan.count("new"),
    }
    summary = ", ".join(f"{number} {treatment}" for treatment, number in counts.items() if number)
    return f"Made by `nas apply` from `{plan.title}` ({plan.family}, `{plan.before}`). Tensors: {summary}."


def _verified(result: Verification) -> str:
    return (
        f"Loaded in a fresh process (transformers {result.transformers}, torch {result.torch}) and compared "
        f"in {result.dtype} with the tensors as planned: logits differ by at most "
        f"{result.max_logit_difference:.1e}, the largest being {result.max_logit:.1f}; "
        f"greedy generation with and without cache agrees on "
        f"{result.equal_tokens} of {result.new_tokens} tokens."
    )
