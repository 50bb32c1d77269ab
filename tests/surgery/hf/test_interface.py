"""The interface table, one test per row, and the page that shows it."""

from __future__ import annotations

import importlib.util
import inspect
import re

import pytest
from transformers import GenerationConfig, GenerationMixin, LlamaForCausalLM
from transformers.utils import TransformersKwargs

from tests.surgery.hf.interface.cases import COLUMNS, case
from tests.surgery.hf.interface.page import PAGE, page
from tests.surgery.hf.interface.rows import Row, rows

ROWS = rows()


# They share nearly all of their code with G and R: what is wrong with them alone is seldom an argument.
RELATED = ("D", "M", "H")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
@pytest.mark.parametrize(
    "columns",
    [
        pytest.param([column for column in COLUMNS if column not in RELATED], id="all kinds"),
        pytest.param(list(RELATED), id="related mixers", marks=pytest.mark.slow),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_row(row: Row, columns: list[str]) -> None:
    if row.needs and importlib.util.find_spec(row.needs) is None:
        pytest.skip(f"needs {row.needs}")
    first = re.split(r"\W", row.argument)[0]
    if row.group == "GenerationConfig" and not row.refused and first not in vars(GenerationConfig()):
        pytest.skip(f"this version of transformers has no {first}")
    for column in columns:
        if row.refuses(column):
            with pytest.raises(ValueError, match=row.refused):
                row.check(case(column))
        else:
            try:
                row.check(case(column))
            except Exception as error:
                error.add_note(f"in the column {column}")
                raise


def named(group: str) -> set[str]:
    """Every argument that rows of a group name."""
    words = " ".join(row.argument for row in ROWS if row.group == group)
    return set(re.findall(r"\w+", words))


def test_every_argument_of_this_version_is_in_the_table() -> None:
    """A new version of transformers that brings new ones fails here, until they are decided."""
    fields = {name for name in vars(GenerationConfig()) if not name.startswith("_")}
    assert fields - {"transformers_version"} - named("GenerationConfig") == set()
    forward = {*inspect.signature(LlamaForCausalLM.forward).parameters, *TransformersKwargs.__optional_keys__}
    assert forward - {"self", "kwargs"} - named("forward") == set()
    generate = set(inspect.signature(GenerationMixin.generate).parameters)
    assert generate - {"self", "kwargs"} - named("generate") == set()


def test_the_page_shows_the_table() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run python -m tests.surgery.hf.interface.page"
    assert len({row.name for row in ROWS}) == len(ROWS)
