"""`nas eval`: measure a model on text, against a teacher, by generating, or on a probe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nas_cli.choices import GroupName, ProbeName
from nas_cli.commands.data import CORPUS_HELP
from nas_cli.help import add_command
from nas_cli.imports import load_torch
from nas_cli.opening import check_corpus, check_model
from nas_cli.options import (
    MOST,
    DeviceOption,
    JsonOption,
    TrustOption,
    refuse_without_effect,
)
from nas_cli.render.counts import seed as seed_number
from nas_cli.render.counts import token_list, tokens
from nas_cli.render.screen import print_json, print_warnings, starting
from nas_cli.steering import AdapterOption, SteerOption, read_changes, steering

if TYPE_CHECKING:
    from studies.evaluation.tasks import TaskScore

EvalArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="A folder or a Hub id; with --probe also an architecture file.")
]

CORPUS = "builtin"
HELD_OUT_TOKENS = 65_536


def add_to(app: typer.Typer) -> None:
    """Add `eval` to `app`."""
    add_command(
        app,
        "eval",
        evaluate,
        "nas eval hybrid",
        "nas eval hybrid --against HuggingFaceTB/SmolLM2-135M --lengths 256,512 --retrieval 50",
        "nas eval pick.yaml --probe recall --pairs 8",
        "nas eval hybrid --adapter books --data books.txt",
    )


def evaluate(
    model: EvalArgument,
    data: Annotated[
        str | None,
        typer.Option(
            help=f"Text: a plain file (used whole) or a corpus (its held-out part): {CORPUS_HELP}",
            show_default=CORPUS,
        ),
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            "--tokens",
            parser=tokens,
            metavar="TOKENS",
            help="Most tokens. Default for held-out text: 65,536.",
        ),
    ] = None,
    seq_len: Annotated[
        int | None,
        typer.Option(
            parser=tokens,
            metavar="TOKENS",
            help="Tokens per sequence. Default: as in `nas train`, else 512; probes have their own.",
        ),
    ] = None,
    lengths: Annotated[
        list | None,  # type: ignore[type-arg] # Typer would take list[int] as a repeated option
        typer.Option(
            parser=token_list,
            metavar="TOKENS,...",
            help="Several lengths, such as 512,2048, instead of --seq-len.",
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="TEACHER",
            help="Compare with this model: KL divergence, agreement of greedy tokens, retrieval.",
        ),
    ] = None,
    retrieval: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=100_000,
            metavar="PROMPTS",
            help="Also retrieve pass keys and values from text by generating: prompts per task and length.",
        ),
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option(
            metavar="TASK,...",
            help="Also run tasks of lm-evaluation-harness (needs nas-cli\\[lm-eval]): names, or YAML files.",
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, max=MOST, metavar="N", help="--tasks: most questions per task.")
    ] = None,
    card: Annotated[
        bool, typer.Option("--card", help="Write the results into the model card of MODEL, a local folder.")
    ] = False,
    probe: Annotated[
        ProbeName | None,
        typer.Option(
            help="Train the model's layers from scratch on a task instead. recall: associative recall, MQAR; "
            "state: state tracking.",
        ),
    ] = None,
    pairs: Annotated[int | None, typer.Option(help="recall: key-value pairs to remember.")] = None,
    distance: Annotated[
        int | None, typer.Option(help="recall: filler tokens between the pairs and the first query.")
    ] = None,
    alphabet: Annotated[int | None, typer.Option(help="recall: number of distinct keys and values.")] = None,
    group: Annotated[GroupName | None, typer.Option(help="state: the group to track.")] = None,
    steps: Annotated[int | None, typer.Option(help="Probe: optimizer steps.")] = None,
    batch: Annotated[int | None, typer.Option("--batch-sequences", help="Probe: sequences per step.")] = None,
    lr: Annotated[float | None, typer.Option(help="Probe: peak learning rate of AdamW.")] = None,
    seeds: Annotated[
        int | None,
        typer.Option(min=1, max=1000, help="Probe: number of runs to average.", show_default="1"),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            parser=seed_number, help="Seed of --retrieval, or the first of --probe.", show_default="0"
        ),
    ] = None,
    adapter: AdapterOption = None,
    steer: SteerOption = None,
    trust_remote_code: TrustOption = False,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Evaluate a model on text: loss, perplexity, bits per byte. Works with any causal LM of transformers.

    With --retrieval also by generating, and with --against relative to another model. With --probe: how well
    its layers, trained from scratch, learn a task; also takes an architecture file.
    """
    settings = {
        "pairs": pairs, "distance": distance, "alphabet": alphabet, "group": group, "steps": steps,
        "batch_sequences": batch, "lr": lr,
    }  # fmt: skip
    if card and (adapter or steer):
        from surgery.config.problems import Problem, UserError

        rule = "records the model itself, which --adapter and --steer change"
        raise UserError("incompatible options", [Problem("--card", None, rule, "omit one of them")])
    if probe is None:
        refuse_without_effect({**settings, "seeds": seeds}, "on text", "add --probe recall")
        if retrieval is None and tasks is None:
            refuse_without_effect({"seed": seed}, "on text alone", "add --retrieval PROMPTS")
        if tasks is None:
            refuse_without_effect({"limit": limit}, "without --tasks", "add --tasks TASK")
        if lengths is not None:
            refuse_without_effect({"seq_len": seq_len}, "beside --lengths", "list it there")
        chosen = lengths or ([seq_len] if seq_len is not None else None)
        _on_text(
            model, against, data or CORPUS, max_tokens, chosen, retrieval or 0, _split(tasks), limit,
            seed or 0, card, adapter, steer, trust_remote_code, device, as_json,
        )  # fmt: skip
        return
    text_only: dict[str, object] = {
        "data": data, "tokens": max_tokens, "lengths": lengths, "against": against,
        "retrieval": retrieval, "tasks": tasks, "limit": limit, "card": card or None, "adapter": adapter,
        "steer": steer,
        "trust_remote_code": trust_remote_code or None,
    }  # fmt: skip
    refuse_without_effect(text_only, "on a probe", "omit --probe to evaluate on text")
    from nas_cli.probes import run_probe

    run_probe(probe, model, {"seq_len": seq_len, **settings}, seeds or 1, seed or 0, device, as_json)


def _on_text(
    model: str, against: str | None, data: str, max_tokens: int | None, lengths: list[int] | None,
    prompts: int, tasks: list[str], limit: int | None, seed: int, card: bool, adapter: Path | None,
    steer: Path | None, trusted: bool, device: str, as_json: bool,
) -> None:  # fmt: skip
    for name in (model, against):
        if name is not None:
            check_model(name)
    check_corpus(data, plain=True)
    load_torch()
    import time

    from nas_cli.render.bars import stage_progress
    from nas_cli.render.evaluation import print_evaluation
    from studies.evaluation.evaluation import evaluate_folder
    from studies.evaluation.model_folder import load
    from studies.evaluation.text import read_text
    from studies.training.devices import pick_device

    torch_device = pick_device(device)
    if tasks:
        from studies.evaluation.tasks import check_tasks

        check_tasks(tasks)
    if card:
        from studies.evaluation.model_card import read_card, write_results

        model_card = read_card(model)
    text = read_text(data)
    changes, given = read_changes(model, adapter, steer), {"adapter": adapter, "steer": steer}
    with starting(f"loading {model}"):
        checkpoint = load(model, torch_device, trust_remote_code=trusted)
    print_warnings(checkpoint.notes)
    teacher = None
    if against is not None:
        with starting(f"loading {against}"):
            teacher = load(against, torch_device, trust_remote_code=trusted)
        print_warnings(teacher.notes)
    if max_tokens is None and not text.whole:
        max_tokens = HELD_OUT_TOKENS
    started = time.monotonic()
    scores: tuple[TaskScore, ...] = ()
    with steering(checkpoint.model, changes):
        with stage_progress() as progress:
            result = evaluate_folder(
                checkpoint, text, teacher=teacher, lengths=lengths, max_tokens=max_tokens, prompts=prompts,
                seed=seed, progress=progress,
            )  # fmt: skip
        if tasks:
            from studies.evaluation.tasks import run_tasks

            scores = run_tasks(checkpoint, tasks, teacher=teacher, limit=limit, seed=seed)
    seconds = time.monotonic() - started
    if card:
        write_results(model_card, model, result, scores, against)
    if as_json:
        first = {"model": model, "against": against, **result.losses[0].to_dict()}
        first |= {name: None if path is None else str(path) for name, path in given.items()}
        print_json({
            **first,
            "lengths": [item.to_dict() for item in result.losses],
            "retrieval": [item.to_dict() for item in result.retrieval],
            "tasks": [item.to_dict() for item in scores],
            "seconds": seconds,
        })  # fmt: skip
        return
    print_evaluation(model, against, result, scores, seconds, given)


def _split(tasks: str | None) -> list[str]:
    return [name.strip() for name in (tasks or "").split(",") if name.strip()]
