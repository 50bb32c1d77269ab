"""Published layouts laid over a pretrained model, where a space offers their parts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from search_spaces.baselines import BASELINES, Baseline
from search_spaces.replacements import PARTS, Part, Replacement, Replacements
from surgery.architecture.rules import Rule
from surgery.config.backbone import FFN_PROJECTIONS

# What a part becomes: `mixer` or `ffn`, the mixer's letter ("": the model's own), (projection, operator)
Becomes = tuple[str, str, frozenset[tuple[str, str]]]


def published(
    replacements: Replacements, kl: Mapping[tuple[str, str], float]
) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield (name, label of every replaced part) of the baselines that the space has all parts for.

    Full attention stands for the model's own mixer, and loops are left out. Options are those that the space
    gives; of several replacements that fit, the one with the lowest sum of scores is taken. Parts that the
    space keeps stay as they are. A design that replaces nothing is left out, and so are windows in every
    layer, which are among the uniform designs that a search measures.

    Args:
        replacements: the options of every part.
        kl: their scores in nats/token by (part's name, label).
    """
    for name, design in BASELINES.items():
        if design.layout == "W":
            continue
        choice = _laid_over(replacements, design, kl)
        if choice:
            yield name, choice


def _laid_over(
    replacements: Replacements, design: Baseline, kl: Mapping[tuple[str, str], float]
) -> dict[str, str] | None:
    """Return the labels of the parts that a design replaces; None if the space lacks one of its parts."""
    wanted = _wanted(replacements, design)
    groups: dict[Becomes, list[Part]] = {becomes: [] for becomes in wanted.values()}
    for part in replacements.parts:
        if (part.layer, part.part) in wanted:
            groups[wanted[part.layer, part.part]].append(part)
    choice: dict[str, str] = {}
    for becomes, parts in groups.items():
        options = [option for option in (parts[0].options if parts else ()) if _becomes(option) == becomes]
        scores = {
            option.label: sum(kl[part.name, option.label] for part in parts)
            for option in options
            if all(option.label in part.labels for part in parts)
        }
        if not scores:
            return None
        choice |= {part.name: min(scores, key=lambda label: scores[label]) for part in parts}
    return choice


def _wanted(replacements: Replacements, design: Baseline) -> dict[tuple[int, str], Becomes]:
    """Return what a design makes of each part, by (layer, part); those that it keeps are left out."""
    layers = replacements.model.layers
    operators = _operators(design.rules(replacements.backbone))
    result = {}
    for index, letter in enumerate(design.letters(len(layers))):
        for part in PARTS:
            own = _of_part(operators, part)
            new = letter if part == "mixer" and letter not in ("F", layers[index].mixer) else ""
            if new or own:
                result[index, part] = (part, new, own)
    return result


def _becomes(option: Replacement) -> Becomes:
    return option.part, option.letter or "", _of_part(_operators(option.rules), option.part)


def _operators(rules: Sequence[Rule]) -> dict[str, str]:
    """Return the operator of each projection that a rule matches; the first match wins."""
    return {name: rule.operator for rule in reversed(rules) for name in rule.match}


def _of_part(operators: Mapping[str, str], part: str) -> frozenset[tuple[str, str]]:
    """Return the operators of the projections that belong to a part."""
    return frozenset(item for item in operators.items() if (item[0] in FFN_PROJECTIONS) == (part == "ffn"))
