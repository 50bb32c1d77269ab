"""Text that ships with the package: English prose of Python's own documentation (PSF licence).

`python_docs.jsonl.gz` holds one document per line (`id`, `title`, `text`); `LICENSE.txt` and
`ATTRIBUTION.md` state its authors and the changes; `build.py` generates all three.
"""
