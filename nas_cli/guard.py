"""Rejection of empty option and argument values: an empty string is an error, not an omitted option."""

from __future__ import annotations

import re
from typing import Any

import typer
from typer.core import TyperGroup

_CHOICE = re.compile(r"'([^']*)' is not one of (.*)\.")  # as Typer words it
_WORDS = (
    (re.compile(r"Input should be a valid integer.*"), "must be a whole number"),
    (re.compile(r"Input should be a valid number.*"), "must be a number"),
    (re.compile(r"Input should be greater than or equal to"), "must be at least"),
    (re.compile(r"Input should be less than or equal to"), "must be at most"),
)  # as Pydantic words it for Typer
FREE_TEXT = ("text",)  # arguments that may be empty: the prompt of `nas generate`


class GuardedGroup(TyperGroup):
    """The root command group; checks the values of all parameters before a command runs."""

    def get_params(self, ctx: Any) -> Any:
        """Return the options of `nas` itself."""
        return _without_types_of_flags(super().get_params(ctx))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return the command, with its parameters guarded."""
        command = super().get_command(ctx, cmd_name)
        if command is not None:
            _guard(command, ctx)
        return command


def _guard(command: Any, ctx: Any) -> None:
    _without_types_of_flags(command.get_params(ctx))  # --help too
    for parameter in command.params:
        if parameter.name not in FREE_TEXT and not hasattr(parameter, "guarded"):
            _guard_parameter(parameter)
    for inner in getattr(command, "commands", {}).values():
        _guard(inner, ctx)


def _without_types_of_flags(parameters: list[Any]) -> list[Any]:
    """Let the help show a flag without the <bool> of newer Typer, which looks like a value to give."""
    for parameter in parameters:
        if getattr(parameter, "is_flag", False):
            parameter.metavar = ""
    return parameters


def _guard_parameter(parameter: Any) -> None:
    process = parameter.process_value

    def checked(ctx: Any, value: Any) -> Any:
        for item in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(item, str) and not item.strip():
                hint = "; omit it to use the default" if not parameter.required else ""
                raise typer.BadParameter(f"must not be empty{hint}", ctx=ctx, param=parameter)
        try:
            return process(ctx, value)
        except typer.BadParameter as error:
            error.message = _with_suggestion(error.message)
            raise

    parameter.process_value = checked
    parameter.guarded = True


def _with_suggestion(message: str) -> str:
    """Return Typer's message in our words, and if it is about a wrong choice with the nearest right one."""
    message = message.removeprefix("Value error, ")
    for pattern, words in _WORDS:
        message = pattern.sub(words, message)
    match = _CHOICE.fullmatch(message)
    if match is None:
        return message
    from surgery.config.problems import nearest

    hint = nearest(match[1], re.findall(r"'([^']*)'", match[2]))
    return f"{message} {hint[0].upper()}{hint[1:]}" if hint else message
