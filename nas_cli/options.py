"""Options shared by several commands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

import typer

from nas_cli import completion
from studies.files.defaults import DEFAULT_CPU_PRECISION

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_DURATION = re.compile(r"(?:(\d{1,9})\s*h)?\s*(?:(\d{1,9})\s*m(?:in)?)?\s*(?:(\d{1,9})\s*s)?", re.ASCII)
LONGEST_HOURS = 24 * 366
MOST = 1_000_000  # upper bound of trials, repeats, steps and other counts


def parse_duration(text: str) -> float:
    """Convert `90s`, `20m` or `1h30m` to seconds.

    Raises:
        typer.BadParameter: `text` is not a time, is zero, or is longer than a year.
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
    """Return the path of a folder, with `~` expanded.

    Raises:
        typer.BadParameter: `text` can't be the path of a folder.
    """
    if _CONTROL.search(str(text)):
        raise typer.BadParameter("holds a line break or another control character")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:  # ~user of an unknown user
        raise typer.BadParameter(str(error)) from None


def parse_device(name: str) -> str:
    """Return the name of a device.

    Raises:
        typer.BadParameter: it names no device, or a GPU on a machine without one.
    """
    from studies.training.device_names import check_device_name
    from surgery.config.problems import UserError

    try:
        check_device_name(name)
    except UserError as error:
        problem = error.problems[0]
        hint = f" ({problem.hint})" if problem.hint else ""
        raise typer.BadParameter(f"{problem.shown} {problem.rule}{hint}") from None
    return name


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
        "--storage", metavar="URL", envvar="NAS_STORAGE", show_envvar=True,
        help="Database of the studies, such as postgresql://USER:PASSWORD@HOST/DATABASE or sqlite:///FILE. "
        "Default: a journal file in the study's folder.",
    ),
]  # fmt: skip
TimeoutOption = Annotated[
    float | None,
    typer.Option(
        "--timeout", parser=parse_duration, metavar="TIME", help="Stop after this time, such as 20m or 1h30m."
    ),
]
DeviceOption = Annotated[
    str,
    typer.Option(
        "--device",
        parser=parse_device,
        metavar="<auto|cpu|cuda|cuda:N>",
        autocompletion=lambda: ["auto", "cpu", "cuda"],
        help="Where to compute; auto takes a GPU if there is one.",
    ),
]
CompileOption = Annotated[
    Literal["off", "auto", "max"],
    typer.Option(
        "--compile", help="Compile blocks with torch.compile. auto: if the run is long enough to pay off."
    ),
]
CpuPrecisionOption = Annotated[
    Literal["float32", "bfloat16"] | None,
    typer.Option(
        "--cpu-precision", show_default=DEFAULT_CPU_PRECISION,
        help="Matmul precision on CPU; CUDA always uses bfloat16.",
    ),
]  # fmt: skip
ThreadsOption = Annotated[
    int | None,
    typer.Option(
        "--threads", min=1, max=1024, metavar="N",
        help="CPU threads per process. Default: OMP_NUM_THREADS if set; else 1 for models narrower than 256, "
        "and an equal share of the cores for wider ones.",
    ),
]  # fmt: skip
ExportOption = Annotated[
    Literal["auto", "nas"],
    typer.Option(
        help="Class of the result. auto: one of transformers if it computes the same; nas: always ours."
    ),
]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace an existing model.")]
TrustOption = Annotated[
    bool, typer.Option("--trust-remote-code", help="Allow running code that comes with the model.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
StudyArgument = Annotated[
    str,
    typer.Argument(metavar="STUDY", help="Name or folder of a study.", autocompletion=completion.studies),
]
SpaceArgument = Annotated[
    str,
    typer.Argument(
        metavar="SPACE",
        help="A preset (see `nas space list`) or a YAML file.",
        autocompletion=completion.spaces,
    ),
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model", metavar="MODEL", help="Folder or Hub id of the pretrained model whose parts are replaced."
    ),
]
WorkersOption = Annotated[
    int, typer.Option("--workers", min=1, metavar="N", help="Number of parallel training processes.")
]
PlotOption = Annotated[
    Path | None, typer.Option("--plot", metavar="FILE", help="Write a plot: .png, .svg, .pdf or .html.")
]
EachOption = Annotated[
    int,
    typer.Option(
        "--each",
        min=2,
        max=1000,
        metavar="N",
        help="Maximum runs per architecture, with the first, without those that confirm it.",
    ),
]
TrackOption = Annotated[
    list[str] | None,
    typer.Option(
        "--track",
        metavar="TRACKER[=WHERE]",
        autocompletion=completion.trackers,
        help="Also log to tensorboard, wandb, mlflow or trackio; may be repeated. WHERE is a folder, or the "
        "address of a server.",
    ),
]
RoundsOption = Annotated[
    int,
    typer.Option("--rounds", min=1, max=MOST, metavar="N", help="Measurements per entry; medians are shown."),
]


def refuse_without_effect(options: dict[str, object], where: str, hint: str) -> None:
    """Reject options that would be ignored. None marks an option that was not given.

    Raises:
        UserError: one of these options was given.
    """
    from surgery.config.problems import Problems

    problems = Problems()
    for name, value in options.items():
        if value is not None:
            problems.add(f"--{name.replace('_', '-')}", value, f"has no effect {where}", hint)
    problems.raise_if_any("incompatible options")


def given(context: typer.Context, *names: str) -> dict[str, object]:
    """Return the values of those parameters `names` that were given on the command line."""
    sources = {name: context.get_parameter_source(name) for name in names}
    return {
        name: context.params[name]
        for name, source in sources.items()
        if source is not None and source.name == "COMMANDLINE"
    }
