"""`nas init`: a commented search space to begin with, by options or by questions."""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nas_cli.choices import SpaceSize
from nas_cli.files import check_free
from nas_cli.help import add_command
from nas_cli.options import ModelOption
from nas_cli.render.screen import console, print_warnings

if TYPE_CHECKING:
    from search_spaces.template import Answers

SMALL_CONTEXT = 2048  # tokens; models that see fewer get the preset for small models


def add_to(app: typer.Typer) -> None:
    """Add `init` to `app`."""
    add_command(
        app,
        "init",
        init,
        "nas init",
        "nas init mine.yaml --size gpu --mixers gdn,window --no-hdpl",
        'nas init small.yaml --loops --limit "params <= 600k"',
        "nas init hybrid.yaml --model HuggingFaceTB/SmolLM2-135M",
    )


def init(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Space file to write.")] = Path("mine.yaml"),
    size: Annotated[
        SpaceSize | None,
        typer.Option(help="Size of the architectures and their training.", show_default="laptop"),
    ] = None,
    mixers: Annotated[
        str | None,
        typer.Option(
            metavar="WORDS", show_default="gdn,window",
            help="Mixers beside full attention, with commas: gdn, kda, window, sparse, gaussian, nsa, "
            "retnet, mamba2, hgrn2; or none.",
        ),
    ] = None,
    hdpl: Annotated[
        bool | None, typer.Option("--hdpl/--no-hdpl", help="Search HDPL operators.", show_default="--hdpl")
    ] = None,
    loops: Annotated[
        bool | None,
        typer.Option(
            "--loops/--no-loops", help="Search passes through the stack.", show_default="--no-loops"
        ),
    ] = None,
    context: Annotated[
        int | None, typer.Option(min=1, help="Tokens at which decoding is counted.", show_default="1024")
    ] = None,
    limit: Annotated[
        list[str] | None, typer.Option(help='A constraint such as "params <= 40M"; may be repeated.')
    ] = None,
    model: ModelOption = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
) -> None:  # fmt: skip
    """Write a commented search space to begin with.

    In a terminal, without options, it asks. With --model it is a space of replacements in that model.
    """
    if not overwrite:
        check_free(file, "FILE", "space")
    if model is not None:
        text = _of_replacements(file, model)
        command = f"nas search {shlex.quote(str(file))}"
    else:
        given = (size, mixers, hdpl, loops, context, limit)
        asks = all(value is None for value in given) and _is_terminal()
        answers = _ask(file.stem) if asks else _answers(file.stem, size, mixers, hdpl, loops, context, limit)
        text = _from_scratch(file, answers)
        command = f"nas search {shlex.quote(str(file))} --dry-run"
    file.write_text(text, encoding="utf-8")
    console.print(f"wrote {file}; next: [bold]{command}[/]", soft_wrap=True)


def _from_scratch(file: Path, answers: Answers) -> str:
    from search_spaces import parse_space
    from search_spaces.template import space_text

    text = space_text(answers)
    print_warnings(parse_space(text, str(file)).warnings())
    return text


def _of_replacements(file: Path, model: str) -> str:
    """Return a preset for the model under the file's name, with the model's name in it."""
    import yaml

    from nas_cli.opening import open_model
    from search_spaces.catalog import list_presets, load_space

    section = open_model(model)
    context = section.architecture.backbone.max_position_embeddings
    preset = "pretrained" if context >= SMALL_CONTEXT else "pretrained-tiny"
    load_space(preset, section)  # as a check
    text = next(item.path for item in list_presets() if item.name == preset).read_text(encoding="utf-8")
    named = yaml.safe_dump({"model": section.name}, width=math.inf).strip()
    text = text.replace("; give --model.", ".", 1)
    return text.replace(
        f"name: {preset}\n",
        f"name: {file.stem}\n{named}  # whose parts are replaced; --model takes another\n",
        1,
    )


def _answers(
    name: str, size: str | None, mixers: str | None, hdpl: bool | None, loops: bool | None,
    context: int | None, limit: list[str] | None,
) -> Answers:  # fmt: skip
    from search_spaces.template import Answers

    usual = Answers(name)
    return Answers(
        name,
        size or usual.size,
        usual.mixers if mixers is None else _words(mixers),
        usual.hdpl if hdpl is None else hdpl,
        usual.loops if loops is None else loops,
        context or usual.context,
        tuple(limit or ()),
    )


def _is_terminal() -> bool:
    return sys.stdin.isatty()


def _ask(name: str) -> Answers:
    """Ask for everything that decides what a space has."""
    from search_spaces.template import SIZES, WORDS, Answers

    usual = Answers(name)
    size = typer.prompt(f"Size ({', '.join(SIZES)})", usual.size, value_proc=_one_of(SIZES))
    mixers = typer.prompt(
        f"Mixers beside full attention ({', '.join(WORDS)}, or none)", ",".join(usual.mixers),
        value_proc=_words,
    )  # fmt: skip
    hdpl = typer.confirm("Search HDPL operators?", usual.hdpl)
    loops = typer.confirm("Search passes through the stack?", usual.loops)
    context = typer.prompt("Tokens at which decoding is counted", usual.context, type=int)
    most = typer.prompt("At most how many parameters, such as 40M (empty: no limit)", "", show_default=False)
    limits = (f"params <= {most}",) if most else ()
    chosen = _words(mixers) if isinstance(mixers, str) else mixers  # a default is not read
    return Answers(name, size, chosen, hdpl, loops, context, limits)


def _one_of(known: tuple[str, ...]) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in known:
            raise typer.BadParameter(f"{text!r} is none of {', '.join(known)}")
        return text

    return read


def _words(text: str) -> tuple[str, ...]:
    """Return the words of mixers in a text, `none` for no other mixer."""
    from search_spaces.template import WORDS

    words = tuple(dict.fromkeys(word.strip() for word in text.split(",") if word.strip() != "none"))
    unknown = [word for word in words if word not in WORDS]
    if unknown:
        raise typer.BadParameter(
            f"{', '.join(unknown)} is none of {', '.join(WORDS)}, none", param_hint="--mixers"
        )
    return words
