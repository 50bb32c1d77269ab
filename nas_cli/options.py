"""Options that several commands share, spelled once."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

import typer

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_DURATION = re.compile(r"(?:(\d{1,9})\s*h)?\s*(?:(\d{1,9})\s*m(?:in)?)?\s*(?:(\d{1,9})\s*s)?", re.ASCII)
LONGEST_HOURS = 24 * 366


def parse_duration(text: str) -> float:
    """`90s`, `20m` or `1h30m` -> seconds.

    Raises:
        typer.BadParameter: anything else, nothing at all, or more than a year.
    """
    match = _DURATION.fullmatch(text.strip().lower())
    if text.strip().isdigit():
        number = text.strip()
        raise typer.BadParameter(f"needs a unit: {number}s, {number}m or {number}h")
    if match is None or not any(match.groups()):
        raise typer.BadParameter("must be a time such as 90s, 20m or 1h30m")
    hours, minutes, seconds = (int(part or 0) for part in match.groups())
    total = 3600.0 * hours + 60 * minutes + seconds
    if not 0 < total <= 3600 * LONGEST_HOURS:
        raise typer.BadParameter("must be more than 0 and at most a year")
    return total


def parse_folder(text: str | Path) -> Path:
    """A folder's path, `~` resolved.

    Raises:
        typer.BadParameter: it can't be a folder's path.
    """
    if _CONTROL.search(str(text)):
        raise typer.BadParameter("holds a line break or another control character")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:  # of a user who is not there
        raise typer.BadParameter(str(error)) from None


RunsOption = Annotated[
    Path,
    typer.Option(
        "--dir", parser=parse_folder, metavar="FOLDER", help="Folder that holds the studies.",
        show_default=True,
    ),
]  # fmt: skip
StorageOption = Annotated[
    str | None,
    typer.Option(
        "--storage", envvar="NAS_STORAGE", show_envvar=True,
        help="A database that holds the studies, such as postgresql://USER:PASSWORD@HOST/DATABASE or "
        "sqlite:///FILE; the journal in the study's folder if left out.",
    ),
]  # fmt: skip
TimeoutOption = Annotated[
    float | None,
    typer.Option(
        "--timeout", parser=parse_duration, metavar="TIME", help="Stop after a time such as 20m or 1h30m."
    ),
]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]
CompileOption = Annotated[
    Literal["off", "auto", "max"],
    typer.Option("--compile", help="Compile blocks: auto where the run is long enough to pay for it."),
]
CpuPrecisionOption = Annotated[
    Literal["float32", "bfloat16"] | None,
    typer.Option(
        "--cpu-precision", show_default="float32",
        help="Number format of matrix products on a CPU; on CUDA it is bfloat16.",
    ),
]  # fmt: skip
ThreadsOption = Annotated[
    int | None,
    typer.Option(
        "--threads", min=1, max=1024,
        help="CPU threads per process. Default: OMP_NUM_THREADS if set, else 1 for models narrower than 256 "
        "and an equal share of the cores for others.",
    ),
]  # fmt: skip
DEFAULT_CPU_PRECISION = "float32"
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace a model that stands there.")]
TrustOption = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run the code that the model brings along.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
StudyArgument = Annotated[str, typer.Argument(help="Name of a study, or the path of its folder.")]
EachOption = Annotated[
    int,
    typer.Option("--each", min=2, max=1000, help="Runs of one architecture at most, its first one counted."),
]

MOST_SEED = 2**63 - 1  # what every generator takes
MOST = 1_000_000  # trials, repeats, steps: of anything that is done one by one

DEFAULT_RUNS = Path("runs")
DEFAULT_EACH = 5  # studies.search.refinement.MOST_RUNS, without importing it


def refuse_without_effect(options: dict[str, object], where: str, hint: str) -> None:
    """Refuse options that would be ignored. None stands for one that was not given.

    Raises:
        UserError: one of these options was given.
    """
    from surgery.config.problems import Problems

    problems = Problems()
    for name, value in options.items():
        if value is not None:
            problems.add(f"--{name.replace('_', '-')}", value, f"has no effect {where}", hint)
    problems.raise_if_any("options that don't go together")


def given(context: typer.Context, *names: str) -> dict[str, object]:
    """Return the values of the parameters `names` that stand on the command line."""
    sources = {name: context.get_parameter_source(name) for name in names}
    return {
        name: context.params[name]
        for name, source in sources.items()
        if source is not None and source.name == "COMMANDLINE"
    }
