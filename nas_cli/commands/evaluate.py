"""`nas eval` and `nas generate`: measure a model on text or on a probe, and generate text with it."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from nas_cli.commands.data import CORPUS_HELP
from nas_cli.options import (
    MOST,
    MOST_SEED,
    DeviceOption,
    JsonOption,
    TrustOption,
    refuse_without_effect,
)
from nas_cli.render.counts import number, tokens
from nas_cli.render.screen import console, duration, errors, print_json, print_warnings

ModelArgument = Annotated[str, typer.Argument(help="A Hugging Face model: a folder or a Hub id.")]

EvalArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="A folder or a Hub id; with --probe also an architecture file.")
]

CORPUS = "builtin"
HELD_OUT_TOKENS = 65_536


def add_to(app: typer.Typer) -> None:
    """Add `eval` and `generate` to `app`."""
    app.command("eval")(evaluate)
    app.command("generate")(generate)


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
            parser=tokens, metavar="TOKENS", help="Maximum tokens. Default for held-out text: 65,536."
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
    probe: Annotated[
        str | None,
        typer.Option(
            help="Train the model's layers from scratch on a task instead: recall (associative recall, MQAR) "
            "or state (state tracking).",
        ),
    ] = None,
    pairs: Annotated[int | None, typer.Option(help="recall: key-value pairs to remember.")] = None,
    distance: Annotated[
        int | None, typer.Option(help="recall: filler tokens between the pairs and the first query.")
    ] = None,
    alphabet: Annotated[int | None, typer.Option(help="recall: number of distinct keys and values.")] = None,
    group: Annotated[str | None, typer.Option(help="state: parity, s3, s4, a5 or s5.")] = None,
    steps: Annotated[int | None, typer.Option(help="Probe: optimizer steps.")] = None,
    batch: Annotated[int | None, typer.Option(help="Probe: sequences per step.")] = None,
    lr: Annotated[float | None, typer.Option(help="Probe: peak learning rate of AdamW.")] = None,
    seeds: Annotated[
        int | None,
        typer.Option(min=1, max=1000, help="Probe: number of runs to average.", show_default="1"),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, max=MOST_SEED, help="Probe: the first seed.", show_default="0"),
    ] = None,
    trust_remote_code: TrustOption = False,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Evaluate a model on text: loss, perplexity, bits per byte. Works with any causal LM of transformers.

    With --probe: how well its layers, trained from scratch, learn a task; also takes an architecture file.
    """
    settings = {
        "seq_len": seq_len, "pairs": pairs, "distance": distance, "alphabet": alphabet, "group": group,
        "steps": steps, "batch": batch, "lr": lr,
    }  # fmt: skip
    if probe is None:
        refuse_without_effect(
            {**settings, "seq_len": None, "seeds": seeds, "seed": seed}, "on text", "add --probe recall"
        )
        _perplexity(model, data or CORPUS, max_tokens, seq_len, trust_remote_code, device, as_json)
        return
    trust = trust_remote_code or None
    text_only: dict[str, object] = {"data": data, "max_tokens": max_tokens, "trust_remote_code": trust}
    refuse_without_effect(text_only, "on a probe", "omit --probe to evaluate on text")
    from nas_cli.probes import run_probe

    run_probe(probe, model, settings, seeds or 1, seed or 0, device, as_json)


def _perplexity(
    model: str, data: str, max_tokens: int | None, seq_len: int | None, trusted: bool, device: str,
    as_json: bool,
) -> None:  # fmt: skip
    import time

    from nas_cli.render.bars import stage_progress
    from studies.evaluation.model_folder import load
    from studies.evaluation.perplexity import measure, read_text
    from studies.training.devices import pick_device

    torch_device = pick_device(device)
    text = read_text(data)
    checkpoint = load(model, torch_device, trust_remote_code=trusted)
    print_warnings(checkpoint.notes)
    if max_tokens is None and not text.whole:
        max_tokens = HELD_OUT_TOKENS
    started = time.monotonic()
    with stage_progress() as progress:
        result = measure(
            checkpoint, text, seq_len=seq_len, max_tokens=max_tokens,
            on_tokens=lambda done, total: progress("tokens", done, total),
        )  # fmt: skip
    seconds = time.monotonic() - started
    if as_json:
        print_json({"model": model, **result.to_dict(), "seconds": seconds})
        return
    rows = Table.grid(padding=(0, 2))
    rows.add_column(style="bold", no_wrap=True)
    rows.add_column(overflow="fold")
    rows.add_row("model", Text(model))
    rows.add_row("text", Text(f"{result.text}: {result.tokens:,} tokens, {result.bytes:,} bytes"))
    rows.add_row(
        "loss", f"[bold green]{result.loss:.4f}[/] nats/token, in sequences of {result.seq_len} tokens"
    )
    rows.add_row("perplexity", f"{result.perplexity:,.2f}")
    rows.add_row("bits/byte", f"{result.bits_per_byte:.4f}")
    rows.add_row("took", f"{duration(seconds)}, {result.tokens / max(seconds, 1e-9):,.0f} tokens/s")
    console.print(rows)


def generate(
    model: ModelArgument,
    text: Annotated[str, typer.Argument(help="The prompt.")],
    max_new_tokens: Annotated[int, typer.Option(min=1, max=MOST, help="Tokens to generate.")] = 100,
    temperature: Annotated[
        float,
        typer.Option(
            parser=number(0, 1000), metavar="NUMBER", help="Sampling temperature; 0: greedy decoding."
        ),
    ] = 0.8,
    top_k: Annotated[
        int, typer.Option(min=0, max=MOST, help="Sample from this many most likely tokens; 0: all.")
    ] = 50,
    seed: Annotated[int, typer.Option(min=0, max=MOST_SEED, help="Random seed.")] = 0,
    no_cache: Annotated[
        bool, typer.Option("--no-cache", help="Recompute the whole sequence for every token.")
    ] = False,
    trust_remote_code: TrustOption = False,
    device: DeviceOption = "auto",
) -> None:
    """Generate text from a prompt. Text goes to stdout, timing to stderr."""
    from studies.evaluation.generation import generate as run
    from studies.evaluation.model_folder import load
    from studies.training.devices import pick_device

    checkpoint = load(model, pick_device(device), trust_remote_code=trust_remote_code)
    print_warnings(checkpoint.notes)

    def write(piece: str) -> None:
        sys.stdout.write(piece)
        sys.stdout.flush()

    result = run(
        checkpoint, text, max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k, seed=seed,
        use_cache=not no_cache, write=write,
    )  # fmt: skip
    write("\n")
    cached = "without cache" if no_cache else "with cache"
    errors.print(
        f"[dim]{result.prompt_tokens} + {result.new_tokens} tokens in {result.seconds:.1f} s, "
        f"{result.tokens_per_s:.1f} tokens/s {cached}[/]"
    )
