"""Sparse attention in the place of softmax attention: the same projections, and an indexer that knows it."""

from __future__ import annotations

from typing import Any

import torch

from surgery.mixers.patterns import every, probabilities, shortened
from surgery.mixers.sparse.indexer import Index
from surgery.mixers.transplant import Text, fit_output

STEPS = 100
RATE = 1e-2
LONGEST = 512  # tokens of a sequence that the indexer is trained on


def transplant(new: Any, old: Any, text: Text) -> None:
    """Train the indexer on the old mixer's attention, then fit `o`, starting from the old one.

    This is the dense warm-up of DeepSeek-V3.2 (section 2.1): KL(attention || softmax(scores)) over all
    tokens, the attention summed over heads and normalised. Without a text the mixer is silent, because a
    random indexer selects random tokens.
    """
    if text:
        _train_indexer(new, old, text)
    fit_output(new, old, text, prior=old.o.weight)


def _train_indexer(new: Any, old: Any, text: Text) -> None:
    parameters = list(new.indexer.parameters())
    optimizer = torch.optim.Adam(parameters, lr=RATE)
    short = [shortened(x, context, LONGEST) for x, context in text]
    with torch.inference_mode(False), torch.enable_grad():
        for step, index in enumerate(every(text, STEPS)):
            for group in optimizer.param_groups:
                group["lr"] = RATE * (1 - step / STEPS)
            x, context = short[index]
            x = x.clone()
            with torch.no_grad():
                target = probabilities(old, x, context).mean(1)
            keys = new.indexer.key(x, context.rotary)[:, 0]
            queries, weights = new.indexer.query(x, context.rotary)
            scores = Index(queries, weights, keys).scores(x.shape[1])
            later = torch.ones_like(scores[0], dtype=torch.bool).triu(1)
            logs = scores.masked_fill(later, -1e9).log_softmax(-1)
            loss = -(target * logs).sum(-1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
