"""Opening a corpus by its spec.

| spec | corpus |
|---|---|
| `builtin` | English prose of Python's documentation that ships with the package |
| `fineweb-edu[:CONFIG]` | HuggingFaceFW/fineweb-edu, streamed (config `sample-10BT` by default) |
| `hf:NAME[:CONFIG][@SPLIT]` | any Hugging Face dataset, streamed (split `train` by default) |
| a path | a .jsonl, .parquet or .txt file (also .gz), or a folder of them |

`?column=NAME` after any of them reads another column than `text`.
"""

from __future__ import annotations

import os

from search_spaces.text import NAMED
from studies.data.corpus import Corpus, _refused
from surgery.config.paths import expand
from surgery.config.problems import is_unicode, nearest
from surgery.config.recognise import other_kind

FINEWEB_EDU = "HuggingFaceFW/fineweb-edu"
FINEWEB_EDU_CONFIG = "sample-10BT"


def open_corpus(spec: str, column: str | None = None) -> Corpus:
    """Return the corpus that a spec names (see this module's table), without reading or downloading it.

    Raises:
        UserError: no such file or name, or a malformed spec.
    """
    from studies.data.hub import HubCorpus
    from studies.data.local_files import LocalCorpus, builtin_corpus

    plain, query, named = split_column(spec)
    if query or (not named and spec.endswith("?column=")):
        raise _refused(spec, "only ?column=NAME may follow a corpus", "for example corpus.jsonl?column=body")
    column = column or named or "text"
    if not plain:
        raise _refused(spec, "is empty", f"one of {', '.join(NAMED)}, hf:NAME or a path")
    if plain == "builtin":
        if column != "text":
            raise _refused(spec, "the built-in text has the column 'text' only", "leave the column out")
        return builtin_corpus()
    body, _, split = plain.partition("@")
    head, _, rest = body.partition(":")
    if head == "fineweb-edu":
        config = rest or FINEWEB_EDU_CONFIG
        licence = "ODC-By 1.0; also Common Crawl's terms of use"
        name = f"fineweb-edu-{config}"
        return HubCorpus(FINEWEB_EDU, config, split or "train", column, name=name, licence=licence)
    if head == "hf":
        dataset, _, config = rest.partition(":")
        if not dataset:
            raise _refused(spec, "names no dataset", "hf:NAME, hf:NAME:CONFIG or hf:NAME:CONFIG@SPLIT")
        return HubCorpus(dataset, config or None, split or "train", column)
    path = expand(plain)
    if not os.path.exists(path):
        guess = nearest(plain, NAMED)
        hint = guess or f"a corpus is {', '.join(NAMED)}, hf:NAME or a path to .jsonl, .parquet or .txt"
        rule = "is a link to nothing" if os.path.islink(path) else "no such file, folder or named corpus"
        raise _refused(spec, rule, hint)
    if problem := other_kind(path, "corpus", "text", "data", "model", "adapter"):
        raise _refused(str(path), problem.rule, problem.hint)
    if not is_unicode(str(path.resolve())):
        raise _refused(str(path), "its path is not UTF-8 text", "rename the file or folder")
    return LocalCorpus(path, column)


def located(spec: str) -> str:
    """Return the spec of a corpus, prepared folder or tokenizer, independent of the working folder.

    An existing path becomes absolute, without links; every other spec is returned unchanged.
    """
    path, _, column = split_column(spec)
    named = path in NAMED or path.partition(":")[0] in ("hf", "fineweb-edu")
    if named or not os.path.exists(expand(path)):
        return spec
    return f"{expand(path).resolve()}{'?column=' if column else ''}{column}"


def split_column(spec: str) -> tuple[str, str, str]:
    """Return (corpus, query after its `?`, column); an existing file with a `?` in its name is not split."""
    if os.path.exists(expand(spec)):
        return spec, "", ""
    plain, mark, column = spec.rpartition("?column=")
    if mark:
        return plain, "", column
    plain, _, query = spec.partition("?")
    return plain, query, ""
