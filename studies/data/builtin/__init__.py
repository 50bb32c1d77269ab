"""Text that ships with the package: English prose of Python's own documentation (PSF licence).

`python_docs.jsonl.gz` holds one document a line (`id`, `title`, `text`); `LICENSE.txt` and
`ATTRIBUTION.md` say whose it is and what was changed; `build.py` makes all three again.
"""
