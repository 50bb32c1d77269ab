"""Rejection of empty option and argument values: an empty string is an error, not an omitted option."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

FREE_TEXT = ("text",)  # arguments that may be empty: the prompt of `nas generate`


class GuardedGroup(TyperGroup):
    """The root command group; checks the values of all parameters before a command runs."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return the command, with its parameters guarded."""
        command = super().get_command(ctx, cmd_name)
        if command is not None:
            _guard(command)
        return command


def _guard(command: Any) -> None:
    for parameter in command.params:
        if parameter.name not in FREE_TEXT and not hasattr(parameter, "guarded"):
            _guard_parameter(parameter)
    for inner in getattr(command, "commands", {}).values():
        _guard(inner)


def _guard_parameter(parameter: Any) -> None:
    process = parameter.process_value

    def checked(ctx: Any, value: Any) -> Any:
        for item in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(item, str) and not item.strip():
                hint = "; omit it to use the default" if not parameter.required else ""
                raise typer.BadParameter(f"must not be empty{hint}", ctx=ctx, param=parameter)
        return process(ctx, value)

    parameter.process_value = checked
    parameter.guarded = True
