"""Placeholders of values in the help: one word for the same thing in every command."""

from __future__ import annotations

import inspect
from pathlib import Path
from types import UnionType
from typing import Literal, get_args, get_origin

from typer.models import OptionInfo, ParameterInfo

# by parameter; options that say it themselves keep theirs
BY_NAME = {
    "data": "CORPUS", "calibrate": "CORPUS", "tokenizer": "TOKENIZER", "name": "NAME", "column": "NAME",
    "output": "FILE", "csv": "FILE", "plot": "FILE", "table": "FILE", "what": "WHAT", "model": "MODEL",
    "trial": "TRIAL", "best": "OBJECTIVE", "limit": "LIMIT", "baseline": "BASELINE", "host": "ADDRESS",
    "port": "PORT", "space": "SPACE", "spaces": "SPACE...", "corpus": "CORPUS", "text": "TEXT",
    "study": "STUDY", "val_fraction": "SHARE", "lr": "RATE", "batch": "N",
}  # fmt: skip
BY_TYPE: dict[object, str] = {int: "N", float: "NUMBER", Path: "FILE"}


def set_metavars(signature: inspect.Signature) -> None:
    """Give every parameter of a command that has no metavar the one of its name, or of its type.

    Parameters with choices list those instead, and flags have no value.

    Args:
        signature: of the command's function, with annotations evaluated.
    """
    for parameter in signature.parameters.values():
        kind, *about = get_args(parameter.annotation) if _is_annotated(parameter.annotation) else (None,)
        kinds = set(get_args(kind)) - {type(None)} if isinstance(kind, UnionType) else {kind}
        if kinds == {bool} or any(get_origin(item) is Literal for item in kinds):
            continue
        for info in about:
            if isinstance(info, OptionInfo) and not info.param_decls and not isinstance(info.default, str):
                # Typer 0.27 would write a name of its own as its metavar is written: --NAME
                info.param_decls = (f"--{parameter.name.replace('_', '-')}",)
            if isinstance(info, ParameterInfo) and info.metavar is None:
                types = (BY_TYPE[item] for item in kinds if item in BY_TYPE)
                info.metavar = BY_NAME.get(parameter.name) or next(types, None)


def _is_annotated(annotation: object) -> bool:
    return hasattr(annotation, "__metadata__")
