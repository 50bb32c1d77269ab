"""Opening the study or the space named on the command line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from nas_cli.render.screen import print_warnings

if TYPE_CHECKING:
    from search_spaces import SearchSpace
    from search_spaces.pretrained import ModelSection
    from studies.study import Study


def open_space(space: str, model: str | None) -> SearchSpace:
    """Load a space, with the pretrained model whose parts it replaces, if there is one.

    Args:
        space: a preset or a file.
        model: a pretrained model; None: the one that the file names, if any.

    Raises:
        UserError: space or model can't be read, or don't fit each other.
    """
    from nas_cli.by_name import refuse_name
    from search_spaces import load_space, named_model

    refuse_name(space, "space")
    model = model or named_model(space)
    return load_space(space) if model is None else load_space(space, open_model(model))


def open_model(model: str) -> ModelSection:
    """Read the config and the fingerprint of a pretrained model.

    Raises:
        UserError: no such model, or it can't be read.
    """
    check_model(model)
    from studies.workers.designs import model_section

    return model_section(model)


def check_model(model: str) -> None:
    """Refuse what is no model before torch is loaded; download one from the Hub.

    Raises:
        UserError: no such folder, something else than a model, or the Hub has none or can't be reached.
    """
    from nas_cli.by_name import refuse_name
    from surgery.config.problems import UserError
    from surgery.hf.locate import locate

    try:
        locate(model)
    except UserError:  # only now: a model of the Hub may have the name of a study
        refuse_name(model, "model")
        raise


def check_corpus(data: str | None, option: str = "--data", *, plain: bool = False) -> None:
    """Refuse a text that does not exist before torch is loaded. None is none to check.

    Args:
        data: the text.
        option: that gave it.
        plain: whether any file will do.

    Raises:
        UserError: no such text; the problem names the option.
    """
    if data is not None and not (plain and os.path.isfile(os.path.expanduser(data))):
        from studies.healing.text import check_text

        check_text(data, option)


def open_study(study: str, runs: Path, storage: str | None) -> Study:
    """Open a study by name or path; warn if its folder was renamed or copied.

    Raises:
        UserError: there is no such study, it can't be read, or it was not created by nas.
    """
    from studies.study import Study

    opened = Study.open(study, runs, storage)
    print_warnings([opened.remark] if opened.remark else [])
    return opened
