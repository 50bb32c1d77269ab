"""Seeds derived from seeds."""

from __future__ import annotations

import hashlib


def derive_seed(*parts: object) -> int:
    """Return a 32-bit seed from anything printable; equal parts give equal seeds on every machine."""
    text = ":".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
