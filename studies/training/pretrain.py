"""Training one architecture from scratch into a Hugging Face folder, for `nas train`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from search_spaces.proxy import LR_RULES, OPTIMIZERS
from studies.data import TokenData, open_corpus, prepare
from studies.data.prepared import is_prepared
from studies.files.json_file import write_json
from studies.training.batches import check_data
from studies.training.devices import describe
from studies.training.loop import Progress, TrainResult, train
from studies.training.settings import OPTIMIZER_NAMES, TrainSettings
from surgery.apply.stock import OURS, choose_export
from surgery.apply.stock_export import write_as
from surgery.architecture import Architecture
from surgery.config.paths import expand
from surgery.config.problems import Problems, nearest
from surgery.hf.card import card, table
from surgery.hf.lazy import LazyModel
from surgery.hf.staging import check_target, staged
from surgery.model import HybridLM

CURVE, RECORD = "curve.jsonl", "training.json"
MOST_EVALUATIONS = 10

DataProgress = Callable[[int, int, int | None], None]


def open_text(data: str, tokenizer: str, tokens: int, progress: DataProgress | None = None) -> TokenData:
    """Open a prepared folder, or prepare a corpus: all of a local one, `tokens` tokens of a stream.

    Raises:
        UserError: no such data, or it can't be prepared.
    """
    if is_prepared(data):
        return TokenData.open(expand(data))
    streamed = open_corpus(data).text_bytes() is None
    return prepare(data, tokenizer, max_tokens=tokens if streamed else None, progress=progress)


def evaluation_points(tokens: int, eval_tokens: int) -> tuple[float, ...]:
    """Return the shares of the budget at which to evaluate, few enough to cost a small part of the run."""
    count = max(1, min(MOST_EVALUATIONS, tokens // (8 * eval_tokens)))
    return tuple((index + 1) / count for index in range(count))


def check_budget(settings: TrainSettings, tokens_option: str = "--tokens") -> None:
    """Check the settings that a command line gave.

    Args:
        tokens_option: the option that gave the budget.

    Raises:
        UserError: less than one step of whole sequences, or an unknown optimizer or learning-rate rule.
    """
    problems = Problems()
    add_budget_problems(settings, tokens_option, problems)
    add_optimizer_problem(settings, "--optimizer", problems)
    if settings.lr_rule not in LR_RULES:
        rule = f"must be one of {', '.join(LR_RULES)}"
        problems.add("--lr-rule", settings.lr_rule, rule, nearest(settings.lr_rule, LR_RULES))
    problems.raise_if_any("can't train like that")


def add_optimizer_problem(settings: TrainSettings, option: str, problems: Problems) -> None:
    """Add a problem for an unknown optimizer."""
    if settings.optimizer not in OPTIMIZERS:
        rule = f"must be one of {', '.join(OPTIMIZERS)}"
        problems.add(option, settings.optimizer, rule, nearest(settings.optimizer, OPTIMIZERS))


def add_budget_problems(settings: TrainSettings, tokens_option: str, problems: Problems) -> None:
    """Add a problem for steps of no whole sequences, and for a budget of less than a step."""
    if settings.batch_tokens % settings.seq_len:
        below = settings.batch_tokens // settings.seq_len * settings.seq_len
        hint = f"such as {below or settings.seq_len}"
        rule = f"must be a multiple of the sequence length {settings.seq_len}"
        problems.add("--batch-tokens", settings.batch_tokens, rule, hint)
    if settings.tokens < settings.batch_tokens:
        rule = f"is less than one step of {settings.batch_tokens} tokens"
        problems.add(tokens_option, settings.tokens, rule, "train longer, or give fewer --batch-tokens")


def pretrain(
    architecture: Architecture,
    data: TokenData,
    settings: TrainSettings,
    out: Path,
    *,
    seed: int,
    device: torch.device,
    stock: bool = True,
    overwrite: bool = False,
    on_step: Callable[[Progress], None] | None = None,
) -> TrainResult:
    """Train from random weights and write the folder `out`, which exists only after a successful run.

    A model that a class of transformers computes exactly is written as that class, so that other software
    and `nas apply` read it; `stock=False` always writes ours.

    The same seed gives the same weights on the same machine. The folder also has `curve.jsonl` (losses of the
    run) and `training.json` (settings, result, text, versions).

    Raises:
        UserError: data and architecture don't fit, or the folder can't be written.
        TrainingFailed: the loss became NaN, infinite or exploded.
    """
    check_target(out, overwrite=overwrite)
    check_data(data, settings, architecture.backbone.vocab_size)
    with staged(out, overwrite=overwrite) as folder:
        torch.manual_seed(seed)
        model = HybridLM(architecture)
        result = train(model, data, settings, seed=seed, device=device, curve=folder / CURVE, on_step=on_step)
        export = choose_export(architecture, "llama") if stock else OURS
        trained = LazyModel.of(model.cpu().eval())
        write_as(trained, export, folder, tokenizer_dir=data.tokenizer_dir)
        record = record_of(data, settings, result, seed, device)
        write_json(folder / RECORD, {"architecture": architecture.line, "hash": architecture.hash, **record})
        body = card(
            architecture, title=out.name, text=f"## Training\n\n{training_table(record)}",
            model_type=export.model_type,
        )  # fmt: skip
        (folder / "README.md").write_text(body, encoding="utf-8")
    return result


def record_of(
    data: TokenData, settings: TrainSettings, result: TrainResult, seed: int, device: torch.device
) -> dict[str, Any]:
    """Return the settings, data, environment and result of a training as plain JSON values."""
    return {
        "result": asdict(result),
        "settings": asdict(settings),
        "seed": seed,
        "data": {
            "corpus": data.meta["corpus"]["spec"],
            "source": data.meta["corpus"]["source"],
            "licence": data.meta["corpus"]["licence"],
            "tokenizer": data.meta["tokenizer"]["spec"],
            "content_hash": data.content_hash,
        },
        "environment": describe(device),
    }


def training_table(record: Mapping[str, Any]) -> str:
    """Return the record as a Markdown table for the model card."""
    result, settings, data = record["result"], record["settings"], record["data"]
    rows = [
        ["held-out loss", f"{result['val_loss']:.4f} nats/token, {result['val_bpb']:.4f} bits/byte"],
        ["last training loss", f"{result['train_loss']:.4f} nats/token"],
        ["text", f"{data['corpus']} ({data['source']}; {data['licence']})"],
        [
            "tokens",
            f"{result['tokens']:,} ({result['epochs']:.2f} epochs), in steps of {settings['batch_tokens']:,}",
        ],
        ["sequence length", f"{settings['seq_len']:,}"],
        ["optimizer", OPTIMIZER_NAMES[settings["optimizer"]]],
        ["peak learning rate", f"{settings['lr']:g} by the rule {settings['lr_rule']}"],
        ["seed", str(record["seed"])],
        ["time", f"{result['seconds']:.0f} s, {result['train_tokens_per_s']:,.0f} tokens/s"],
        ["device", f"{record['environment']['device']}, torch {record['environment']['torch']}"],
    ]
    return table(["", "value"], rows)
