"""Options that several commands share, spelled once."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

import typer

RunsOption = Annotated[Path, typer.Option("--dir", help="Folder that holds the studies.", show_default=True)]
StorageOption = Annotated[
    str | None,
    typer.Option("--storage", help="Optuna storage URL; the embedded one in the study's folder if left out."),
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
DEFAULT_EACH = 5  # studies.refine.MOST_RUNS, without importing it

_DURATION = re.compile(r"(?:(\d+)\s*h)?\s*(?:(\d+)\s*m(?:in)?)?\s*(?:(\d+)\s*s)?")


def parse_duration(text: str) -> float:
    """`90s`, `20m`, `1h30m` or plain seconds -> seconds.

    Raises:
        typer.BadParameter: anything else, or nothing at all.
    """
    if text.isdigit() and int(text) > 0:
        return float(text)
    match = _DURATION.fullmatch(text.strip().lower())
    if match is None or not any(match.groups()):
        raise typer.BadParameter("must be a time such as 90s, 20m or 1h30m")
    hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return 3600.0 * hours + 60 * minutes + seconds
