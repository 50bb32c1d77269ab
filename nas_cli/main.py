"""The `nas` command: registers all commands, runs one and reports its errors.

Exit codes: 0 success, 1 failure, 2 user error, 3 a worker lost its device and may be restarted, 130 Ctrl-C.
Nothing heavy is imported here, so that `nas --help` is instant.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from importlib import import_module
from types import FrameType
from typing import Annotated

import typer

from nas_cli.guard import GuardedGroup
from nas_cli.intact import complaint
from nas_cli.render import screen

# modules of this package, in the order of a typical workflow; each adds its commands to the app
COMMANDS = (
    "init", "space", "data", "search", "worker", "studies", "front", "refine", "show", "export", "report",
    "pick", "audit", "train", "apply", "evaluate", "generate", "latents", "bench", "dashboard", "doctor",
)  # fmt: skip

app = typer.Typer(
    name="nas",
    no_args_is_help=True,
    cls=GuardedGroup,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        screen.console.print(f"nas {version('nas-cli')}")
        raise typer.Exit


@app.callback()
def nas(
    version: Annotated[
        bool, typer.Option("--version", "-V", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Search hybrid language-model architectures and apply them to real models."""


def register() -> None:
    """Add every command to the app."""
    for name in COMMANDS:
        import_module(f"nas_cli.commands.{name}").add_to(app)


def _stop(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _sleep_while_waiting() -> None:
    """Let waiting OpenMP threads sleep instead of spin, which would take cores from others on a busy machine.

    The variables are read when torch is loaded, and inherited by workers.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.environ.setdefault("KMP_BLOCKTIME", "0")  # Intel's and LLVM's OpenMP


def run() -> None:
    """Run the command line (entry point)."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    _sleep_while_waiting()
    signal.signal(signal.SIGTERM, _stop)  # as Ctrl-C, so that partial output is cleaned up
    for stream in (sys.stdout, sys.stderr):  # a name that the terminal can't encode must not end a command
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if text := complaint():
        screen.errors.print(text, markup=False, soft_wrap=True)
        sys.exit(2)
    register()
    if sys.argv[1:2] == ["help"]:  # nas help COMMAND, as other tools have it
        sys.argv = [sys.argv[0], *sys.argv[2:], "--help"]
    try:
        app()
    except KeyboardInterrupt:
        screen.errors.print("interrupted")
        sys.exit(130)
    except Exception as error:
        sys.exit(_report(error))


def _report(error: Exception) -> int:
    """Print the error that ended the command and return the exit code.

    Raises:
        Exception: `error` itself, if the user asked for tracebacks.
    """
    from surgery.config.failures import report
    from surgery.config.problems import UserError

    text, code = report(error)
    if isinstance(error, UserError):
        screen.print_error(error)
        return code
    if addresses := sys.modules.get("studies.storage.addresses"):  # else no password was read
        text = addresses.redacted(text)
    screen.log.error("%s", text)
    screen.errors.print(text, markup=False, soft_wrap=True)
    return code


if __name__ == "__main__":
    run()
