"""`nas data`: tokenize text into shards, and inspect them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from nas_cli.help import add_command
from nas_cli.options import JsonOption
from nas_cli.render.counts import tokens
from nas_cli.render.fitted import Cells, Column, fitted_table
from nas_cli.render.screen import console, duration, errors, notes, print_json, print_warnings

CORPUS_HELP = (
    "builtin, fineweb-edu, hf:NAME, a .jsonl, .parquet or .txt file (also .gz), or a folder of them."
)
STREAMED_TOKENS = 100_000_000  # default limit for a corpus of unknown size


def add_to(app: typer.Typer) -> None:
    """Add the `data` commands to `app`."""
    group = typer.Typer(no_args_is_help=True)
    add_command(
        group,
        "prepare",
        prepare,
        "nas data prepare builtin",
        "nas data prepare fineweb-edu --tokenizer bpe:8192 --tokens 100M",
        "nas data prepare notes.jsonl?column=body -o prepared",
    )
    add_command(group, "info", info, "nas data info", "nas data info prepared --verify")
    app.add_typer(group, name="data", help="Tokenize text: prepare, info.")


def prepare(
    corpus: Annotated[str, typer.Argument(help=CORPUS_HELP)],
    tokenizer: Annotated[
        str, typer.Option(help="bpe:SIZE (trained on the text) or a Hugging Face tokenizer.")
    ] = "bpe:4096",
    out: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FOLDER", help="Output folder. Default: one in ~/.cache/nas."),
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            "--tokens",
            parser=tokens,
            metavar="TOKENS",
            help="Stop after this many tokens. Default for streams: 100M.",
        ),
    ] = None,
    column: Annotated[str | None, typer.Option(help="Column that contains the text.")] = None,
    val_fraction: Annotated[
        float | None,
        typer.Option(help="Fraction of documents to hold out. Default: 0.02, more for a small corpus."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Tokenize a corpus into shards. Finished shards are reused, so Ctrl-C loses little."""
    import time

    from nas_cli.render.progress import data_progress
    from studies.data import info as describe
    from studies.data import open_corpus
    from studies.data import prepare as run

    opened = open_corpus(corpus, column)
    if max_tokens is None and opened.text_bytes() is None:
        max_tokens = STREAMED_TOKENS
        notes.print(f"streaming corpus: stopping after {max_tokens:,} tokens (--tokens)")
    started = time.monotonic()
    try:
        with data_progress() as progress:
            data = run(
                corpus, tokenizer, out, max_tokens=max_tokens, column=column, val_fraction=val_fraction,
                progress=progress,
            )  # fmt: skip
    except KeyboardInterrupt:
        errors.print("Interrupted. Run the same command to resume from the last finished shard.")
        raise
    print_warnings(data.warnings())
    facts = describe(data.folder)
    if as_json:
        print_json(facts)
        return
    _print_prepared(facts)
    console.print(f"\ntook {duration(time.monotonic() - started)}")


def info(
    what: Annotated[
        str | None, typer.Argument(help="A prepared folder or a corpus. Default: all prepared data.")
    ] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Read every shard and check its hash.")] = False,
    column: Annotated[str | None, typer.Option(help="Column that contains the text.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show prepared data (tokens, bytes, hashes, a sample), or a corpus and the data prepared from it."""
    from studies.data import data_home
    from studies.data import info as describe
    from studies.data.prepared import corpus_info, is_prepared, list_prepared

    if what is None:
        prepared = [item.to_dict() for item in list_prepared()]
        if as_json:
            print_json({"home": str(data_home()), "prepared": prepared})
            return
        console.print(f"prepared data in {data_home()}" if prepared else f"no prepared data in {data_home()}")
        if prepared:
            console.print(_prepared_table(prepared))
    elif is_prepared(what):
        facts = describe(what, verify=verify)
        if as_json:
            print_json(facts)
        else:
            _print_prepared(facts)
    else:
        facts = corpus_info(what, column)
        if as_json:
            print_json(facts)
        else:
            _print_corpus(facts)


def _print_prepared(facts: dict[str, Any]) -> None:
    from surgery.config.quantities import format_bytes

    rows = Table.grid(padding=(0, 2))
    rows.add_column(style="bold", no_wrap=True)
    rows.add_column(overflow="fold")
    corpus, tokenizer = facts["corpus"], facts["tokenizer"]
    part = "" if corpus["exhausted"] else ", part of it"
    rows.add_row("folder", Text(facts["folder"]))
    rows.add_row("corpus", Text(f"{corpus['spec']}{part}"))
    rows.add_row("from", Text(f"{corpus['source']}  {corpus['licence']}", style="dim"))
    rows.add_row("tokenizer", Text(f"{tokenizer['spec']}, {tokenizer['vocab_size']:,} tokens"))
    for split in ("train", "val"):
        held = facts[split]
        shards = f"{held['shards']} shard{'s' if held['shards'] != 1 else ''}"
        rows.add_row(
            split,
            f"{held['tokens']:,} tokens of {held['documents']:,} documents, {format_bytes(held['bytes'])} of "
            f"text, {held['bytes_per_token']:.2f} bytes/token, {shards}",
        )
    rows.add_row("held out", f"{facts['val_fraction']:.1%} of the documents, by their hash")
    checked = "  every shard verified" if facts["verified"] else ""
    rows.add_row("content", Text.assemble(facts["content_hash"][:16], (checked, "green")))
    if corpus["ignored_files"]:
        rows.add_row("ignored", Text(", ".join(corpus["ignored_files"]), style="yellow"))
    console.print(rows)
    console.print(Text(f"\n{' '.join(facts['sample'].split())} …", style="dim"))


def _print_corpus(facts: dict[str, Any]) -> None:
    from surgery.config.quantities import format_bytes

    rows = Table.grid(padding=(0, 2))
    rows.add_column(style="bold", no_wrap=True)
    rows.add_column(overflow="fold")
    size = facts["text_bytes"]
    rows.add_row("corpus", Text(facts["corpus"]))
    rows.add_row("from", Text(facts["source"]))
    rows.add_row("licence", Text(facts["licence"]))
    rows.add_row("column", Text(facts["column"]))
    rows.add_row(
        "size", "unknown until it is read" if size is None else f"about {format_bytes(size)} of text"
    )
    console.print(rows)
    if facts["prepared"]:
        console.print()
        console.print(_prepared_table(facts["prepared"]))
    else:
        console.print(f"\nnot prepared yet: [bold]nas data prepare {facts['corpus']}[/]", soft_wrap=True)


def _prepared_table(prepared: list[dict[str, Any]]) -> Table:
    from surgery.config.quantities import format_count

    columns = [
        Column("folder", least=30, justify="left"),
        Column("tokenizer", least=16, justify="left"),
        Column("train"),
        Column("val"),
        Column("", justify="left"),
    ]
    rows: list[Cells] = []
    for item in prepared:
        state = Text("" if item["finished"] else "not finished", style="yellow")
        counts = (format_count(item[key]) for key in ("train_tokens", "val_tokens"))
        rows.append([Text(item["folder"]), Text(item["tokenizer"]), *counts, state])
    return fitted_table(columns, rows)
