"""Number of times that an architecture can be measured."""

from __future__ import annotations

from pathlib import Path

from studies.study import Study


def most_runs(study: Study, each: int) -> int:
    """Return how many runs of one architecture are possible: at most `each`.

    A design of a pretrained model can be measured once on each stretch of the held-out text. Where the text
    is not on this machine, `each` is returned.
    """
    settings, folder = study.space.library, Path(study.settings.data_folder)
    if settings is None or not (folder / "meta.json").is_file():
        return each
    from studies.data import TokenData
    from studies.library.text import samples

    return min(each, samples(TokenData.open(folder), settings))
