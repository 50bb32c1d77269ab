"""The exact costs that are shown of one architecture of a space, at the contexts that the space is about."""

from __future__ import annotations

from search_spaces.space import SearchSpace
from surgery.architecture.metrics import DEFAULT_CONTEXT, METRICS


def shown_costs(space: SearchSpace) -> list[str]:
    """Return the names of all exact costs, such as `params` and `decode_flops@1024`.

    Costs that depend on the context length are at the contexts that objectives and constraints give for them,
    or give at all; where none is given, at the length of the training sequences, and for a pretrained model
    at its own context, if that is below DEFAULT_CONTEXT.
    """
    named = [(item.metric.name, item.context) for item in space.objectives]
    named += [(item.metric.name, item.context) for item in space.constraints]
    given: dict[str, list[int]] = {}
    for name, context in named:
        if context is not None:
            given.setdefault(name, []).append(context)
    contexts = [context for known in given.values() for context in known] or [_usual(space)]
    names = []
    for name, metric in METRICS.items():
        if not metric.analytic:
            continue
        if metric.takes_context:
            names += [f"{name}@{context}" for context in dict.fromkeys(given.get(name, contexts))]
        else:
            names.append(name)
    return names


def _usual(space: SearchSpace) -> int:
    if space.model is None:
        return space.proxy.seq_len
    return min(DEFAULT_CONTEXT, space.model.architecture.backbone.max_position_embeddings)
