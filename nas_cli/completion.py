"""Completion of names in the shell: spaces, studies, baselines. A mistake on the line completes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import typer

from studies.files.defaults import DEFAULT_RUNS


def spaces(incomplete: str) -> Iterator[tuple[str, str]]:
    """Yield the presets with what they are about, and the space files of this folder."""
    from search_spaces.catalog import list_presets
    from surgery.config.recognise import recognise

    for preset in list_presets():
        if preset.name.startswith(incomplete):
            yield preset.name, preset.summary
    for path in _files(incomplete, ".yaml", ".yml"):
        if recognise(path) == "space":
            yield str(path), "a space file"


def studies(context: typer.Context, incomplete: str) -> Iterator[str]:
    """Yield the studies of --dir."""
    from surgery.config.recognise import recognise

    runs = Path(context.params.get("runs") or context.params.get("folder") or DEFAULT_RUNS).expanduser()
    if runs.is_dir():
        for path in sorted(runs.iterdir()):
            if path.name.startswith(incomplete) and path.is_dir() and recognise(path) == "study":
                yield path.name


def architectures(incomplete: str) -> Iterator[str]:
    """Yield the architecture files of this folder, portable designs and plans among them."""
    from surgery.config.recognise import recognise

    for path in _files(incomplete, ".yaml", ".yml"):
        if recognise(path) in ("architecture", "design", "plan"):
            yield str(path)


def studies_and_files(context: typer.Context, incomplete: str) -> Iterator[str]:
    """Yield the studies of --dir and the architecture files of this folder."""
    yield from studies(context, incomplete)
    yield from architectures(incomplete)


def baselines(context: typer.Context, incomplete: str) -> Iterator[str]:
    """Yield the baselines of the space on the line, or all of them."""
    from search_spaces import BASELINES, load_space
    from surgery.config.problems import UserError

    names: tuple[str, ...] = tuple(BASELINES)
    space = context.params.get("space")
    if isinstance(space, str):
        with suppress(UserError):
            names = load_space(space).baseline_names
    yield from (name for name in names if name.startswith(incomplete))


def samplers(incomplete: str) -> Iterator[str]:
    """Yield samplers as the next of a list separated by commas."""
    from typing import get_args

    from nas_cli.choices import Sampler

    before, comma, last = incomplete.rpartition(",")
    yield from (f"{before}{comma}{name}" for name in get_args(Sampler) if name.startswith(last))


def trackers(incomplete: str) -> Iterator[tuple[str, str]]:
    """Yield the trackers with what they are."""
    from studies.tracking.choice import KINDS

    yield from ((name, kind.title) for name, kind in KINDS.items() if name.startswith(incomplete))


def _files(incomplete: str, *suffixes: str) -> Iterator[Path]:
    """Yield the files whose path begins as it is written so far."""
    folder = Path(incomplete).parent if "/" in incomplete else Path()
    if folder.is_dir():
        for path in sorted(folder.iterdir()):
            if path.suffix in suffixes and str(path).startswith(incomplete.removeprefix("./")):
                yield path
