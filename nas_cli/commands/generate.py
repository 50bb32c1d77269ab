"""`nas generate`: continue a text with a model."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from nas_cli.help import add_command
from nas_cli.imports import load_torch
from nas_cli.opening import check_model
from nas_cli.options import MOST, DeviceOption, TrustOption
from nas_cli.render.counts import number
from nas_cli.render.counts import seed as seed_number
from nas_cli.render.screen import notes, print_warnings, starting
from nas_cli.steering import AdapterOption, SteerOption, read_changes, steering

ModelArgument = Annotated[str, typer.Argument(help="A Hugging Face model: a folder or a Hub id.")]


def add_to(app: typer.Typer) -> None:
    """Add `generate` to `app`."""
    add_command(
        app,
        "generate",
        generate,
        'nas generate hybrid "Once upon a time"',
        'nas generate hybrid "Once" --temperature 0 --tokens 40',
        'nas generate hybrid "Once" --steer steer.yaml',
    )


def generate(
    model: ModelArgument,
    text: Annotated[str, typer.Argument(help="The prompt.")],
    max_new_tokens: Annotated[
        int, typer.Option("--tokens", min=1, max=MOST, help="Tokens to generate.")
    ] = 100,
    temperature: Annotated[
        float,
        typer.Option(
            parser=number(0, 1000), metavar="NUMBER", help="Sampling temperature; 0: greedy decoding."
        ),
    ] = 0.8,
    top_k: Annotated[
        int, typer.Option(min=0, max=MOST, help="Sample from this many most likely tokens; 0: all.")
    ] = 50,
    seed: Annotated[int, typer.Option(parser=seed_number, help="Random seed.")] = 0,
    no_cache: Annotated[
        bool, typer.Option("--no-cache", help="Recompute the whole sequence for every token.")
    ] = False,
    adapter: AdapterOption = None,
    steer: SteerOption = None,
    trust_remote_code: TrustOption = False,
    device: DeviceOption = "auto",
) -> None:
    """Generate text from a prompt. Text goes to stdout, timing to stderr."""
    check_model(model)
    load_torch()
    from studies.evaluation.generation import generate as run
    from studies.evaluation.model_folder import load
    from studies.training.devices import pick_device

    changes = read_changes(model, adapter, steer)
    with starting(f"loading {model}"):
        checkpoint = load(model, pick_device(device), trust_remote_code=trust_remote_code)
    print_warnings(checkpoint.notes)

    def write(piece: str) -> None:
        sys.stdout.write(piece)
        sys.stdout.flush()

    with steering(checkpoint.model, changes):
        result = run(
            checkpoint, text, max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k, seed=seed,
            use_cache=not no_cache, write=write,
        )  # fmt: skip
    write("\n")
    cached = "without cache" if no_cache else "with cache"
    notes.print(
        f"[dim]{result.prompt_tokens} + {result.new_tokens} tokens in {result.seconds:.1f} s, "
        f"{result.tokens_per_s:.1f} tokens/s {cached}[/]"
    )
