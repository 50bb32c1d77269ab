"""Checks of a healing against the surgery that it follows, before anything is read or trained."""

from __future__ import annotations

from fnmatch import fnmatchcase

from studies.healing.alignment import pairs_of
from studies.healing.parts import trained
from studies.healing.settings import HealSettings
from surgery.apply.plan import Plan
from surgery.config.problems import Problems


def check_plan(planned: Plan, settings: HealSettings) -> None:
    """Check that the settings make sense for the parts that a surgery replaces.

    Raises:
        UserError: with all problems: patterns that match no parameter or all of them, nothing to align, or
            hidden states of models that don't run equally many layers.
    """
    problems = Problems()
    names = sorted(tensor.name for tensor in planned.tensors if tensor.action != "shared")
    unmatched = [
        pattern for pattern in settings.freeze if not any(fnmatchcase(name, pattern) for name in names)
    ]
    for pattern in unmatched:
        problems.add("--freeze", pattern, "matches no parameter", f"they are called {names[-1]} and the like")
    remaining = trained(names, settings.freeze)
    if not remaining:
        problems.add("--freeze", " ".join(settings.freeze), "leaves nothing to train", "freeze less")
    if settings.align_tokens and not any(
        name.startswith(pair.prefix) for pair in pairs_of(planned) for name in remaining
    ):
        rule = "has no effect: there are no new parts to train"
        problems.add("--align", settings.align_tokens, rule)
    both = (planned.before, planned.after)
    before, after = (each.depth for each in both)
    if settings.hidden_weight and before != after:
        rule = f"compares layer by layer, but the original runs {before} layers and the result {after}"
        problems.add("--hidden-weight", settings.hidden_weight, rule)
    problems.raise_if_any("can't heal that")
