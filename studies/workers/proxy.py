"""A trial's proxy training: data, settings and metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from search_spaces import SearchSpace
from studies.data import TokenData, open_or_prepare
from studies.data.request import VAL_FRACTION
from studies.study import Study
from studies.training.settings import TrainSettings
from surgery.architecture import Architecture
from surgery.architecture.metrics import METRICS as ALL_METRICS
from surgery.config.problems import Problem, UserError


def open_data(study: Study) -> TokenData:
    """Open the study's token data; prepare it on a machine that does not have it.

    Raises:
        UserError: the data differ from those that the study was started with.
    """
    settings = study.settings
    if (Path(settings.data_folder) / "meta.json").is_file():
        data = TokenData.open(settings.data_folder)
    else:
        data = prepare_for(study.space, settings.corpus, settings.tokenizer)
    if data.content_hash != settings.data_hash:
        rule = f"differs from the study's {settings.data_hash}"
        raise UserError("not this study's data", [Problem("data", data.content_hash, rule)])
    return data


def prepare_for(
    space: SearchSpace, corpus: str, tokenizer: str,
    progress: Callable[[int, int, int | None], None] | None = None,
) -> TokenData:  # fmt: skip
    """Prepare enough tokens of a Hub data set for one proxy, or the whole of a local corpus."""
    remote = corpus.startswith(("hf:", "fineweb-edu"))
    limit = _text_tokens(space) if remote else None
    return open_or_prepare(corpus, tokenizer, max_tokens=limit, progress=progress)


def _text_tokens(space: SearchSpace) -> int:
    """Return how much of a streamed text a study needs, in tokens."""
    library = space.library
    if library is None:
        return space.proxy.tokens
    held_out = library.score_tokens + 2 * library.eval_tokens  # a replicate is measured on other text
    return max(library.fit_tokens + library.align_tokens, round(held_out / VAL_FRACTION))


def train_settings(space: SearchSpace, order_seed: int) -> TrainSettings:
    """Return the training settings of a space's proxy; the data order depends only on the study's seed."""
    proxy = space.proxy
    return TrainSettings(
        tokens=proxy.tokens,
        seq_len=proxy.seq_len,
        batch_tokens=proxy.batch_tokens,
        optimizer=proxy.optimizer,
        lr=proxy.lr,
        lr_rule=proxy.lr_rule,
        warmup=proxy.warmup,
        final_lr=proxy.final_lr,
        weight_decay=proxy.weight_decay,
        eval_tokens=proxy.eval_tokens,
        eval_at=proxy.rungs,
        order_seed=order_seed,
    )


def settings_of(study: Study) -> TrainSettings:
    """Return the training settings of all trials of a study."""
    asked = study.settings
    proxy = train_settings(study.space, asked.seed)
    return replace(proxy, compile=asked.compile, cpu_precision=asked.cpu_precision)


def metrics_of(
    space: SearchSpace, architecture: Architecture, results: Sequence[Mapping[str, float]]
) -> dict[str, float]:
    """Return, by name, every metric that the space mentions and every one without a context.

    Args:
        results: measured metrics of one training per seed; their means are returned.
    """
    measured = {
        name: fmean(result[name] for result in results)
        for name, metric in ALL_METRICS.items()
        if not metric.is_cost and name in results[0]
    }
    names = [name for name, metric in ALL_METRICS.items() if metric.analytic and not metric.takes_context]
    names += [item.name for item in space.objectives if item.metric.is_cost]
    names += [item.name for item in space.constraints]
    return {**measured, **{name: space.cost(architecture, name) for name in dict.fromkeys(names)}}
