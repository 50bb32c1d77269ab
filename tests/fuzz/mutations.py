"""Ways to break a text, a file, or a tree of plain values."""

from __future__ import annotations

import copy
import json
import math
import random
import struct
from typing import Any

DEEP = 100_000  # levels of nesting

WORDS = (
    "", " ", "x", "none", "null", "true", "-1", "0", "1", "nan", "inf", "1e999", "9" * 30, "9" * 5000,
    "a" * 300, "é🙂", "a\nb", "\t", "\x1b[31m", "[bold]", "[/]", "%s{}", "../..", "/", ".", "~", "~nobody/x",
    "/dev/null", "--help", "1M", "builtin", "bpe:1", "hf:", "F" * 5000, "\ud800", "\x00",
)  # fmt: skip
VALUES = (
    None, True, False, -1, 0, 1, 2, 3, 7, 2**31, 2**63, 10**30, -0.5, 0.1, 1e-300, 1e300, math.inf, -math.inf,
    math.nan, [], {}, [None], [[]], {"a": 1}, [1, 2], [2, 1], ["x"], {"": None}, {"choice": []},
    {"range": [1, 1000000000]}, {"log": [0, 1]}, {"range": [3, 1]}, {"choice": [1, 1]},
)  # fmt: skip
BYTES = (
    b"", b"\x00", b"\xff", b"\xef\xbb\xbf", b"\xff\xfe", b"\n", b"\r", b'"', b"{", b"}", b"[", b"]", b":",
    b",", b"&a [*a]", b"!!python/object:os.system x", b"<<: *x", b"---\n", b"\t", b"\xed\xa0\x80", b"NaN",
    b"1e999", b"9" * 5000, b"\x1b[2J", b"\xe2\x80\xa8",
)  # fmt: skip


def value(rng: random.Random) -> Any:
    """Return any plain value, most of them wrong wherever they are put."""
    kind = rng.random()
    if kind < 0.3:
        return rng.choice(WORDS)
    if kind < 0.35:
        return deep(rng.choice((5, 40, 200)))
    return copy.deepcopy(rng.choice(VALUES))


def deep(levels: int) -> Any:
    """Return lists inside of each other."""
    inner: Any = []
    for _ in range(levels):
        inner = [inner]
    return inner


def mutate_tree(data: Any, rng: random.Random, changes: int = 1) -> Any:
    """Return a copy of a tree of dicts and lists with some places replaced, removed, doubled or renamed."""
    data = copy.deepcopy(data)
    for _ in range(changes):
        entries = list(_entries(data))
        if not entries:
            return value(rng)
        holder, key = rng.choice(entries)
        action = rng.random()
        if action < 0.55:
            holder[key] = value(rng)
        elif action < 0.7:
            del holder[key]
        elif action < 0.8 and isinstance(holder[key], int | float) and not isinstance(holder[key], bool):
            holder[key] = holder[key] * rng.choice((-1, 0, 0.5, 2, 3, 1000, 10**12))
        elif action < 0.9 and isinstance(holder, dict):
            new = rng.choice((*(word for word in WORDS if word.isprintable()), str(key).upper(), f"{key}x"))
            holder[new] = holder.pop(key)
        elif isinstance(holder, list):
            holder.insert(rng.randrange(len(holder) + 1), copy.deepcopy(holder[key]))
        else:
            other, its_key = rng.choice(entries)
            holder[key] = copy.deepcopy(other[its_key]) if other is not holder else value(rng)
    return data


def _entries(data: Any) -> Any:
    keys = data if isinstance(data, dict) else range(len(data)) if isinstance(data, list) else ()
    for key in list(keys):
        yield data, key
        yield from _entries(data[key])


def mutate_bytes(data: bytes, rng: random.Random, changes: int = 1) -> bytes:
    """Return the bytes cut, doubled, overwritten, or with something inserted."""
    for _ in range(changes):
        at = rng.randrange(len(data) + 1)
        end = min(len(data), at + rng.choice((1, 2, 8, 64, 1000)))
        action = rng.randrange(9)
        if action == 0:
            data = data[:at]
        elif action == 1:
            data = data[:at] + data[end:]
        elif action == 2:
            data = data[:end] + data[at:]
        elif action == 3:
            data = data[:at] + bytes(rng.randrange(256) for _ in range(end - at)) + data[end:]
        elif action in (4, 5):
            data = data[:at] + rng.choice(BYTES) + data[at if action == 4 else end :]
        elif action == 6:
            lines = data.split(b"\n")
            rng.shuffle(lines)
            data = b"\n".join(lines)
        elif action == 7:
            data = data[:at] + rng.choice((b"[", b'{"a":', b"- ", b"{a: ")) * DEEP + data[at:]
        else:
            wide = data.decode("latin-1").encode("utf-16")
            data = rng.choice((b"", b"\n", b"null", b"[]", b"{}", b"0", data * 3, wide))
    return data


def mutate_json(text: bytes, rng: random.Random) -> bytes:
    """Return JSON with something else in it, or something that is no JSON any more."""
    if rng.random() < 0.25:
        return mutate_bytes(text, rng)
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):  # a line that was changed before
        return mutate_bytes(text, rng)
    return json.dumps(mutate_tree(data, rng, rng.choice((1, 1, 1, 2, 4)))).encode()


def mutate_yaml(text: bytes, rng: random.Random) -> bytes:
    """Return YAML with something else in it, or something that is no YAML any more."""
    import yaml

    if rng.random() < 0.3:
        return mutate_bytes(text, rng, rng.choice((1, 2)))
    data = mutate_tree(yaml.safe_load(text), rng, rng.choice((1, 1, 1, 2, 4)))
    try:
        return yaml.safe_dump(data, sort_keys=False, allow_unicode=True).encode()
    except (yaml.YAMLError, RecursionError, UnicodeEncodeError):
        return json.dumps(data).encode()


def mutate_jsonl(text: bytes, rng: random.Random) -> bytes:
    """Return lines of JSON of which some are different."""
    if rng.random() < 0.3:
        return mutate_bytes(text, rng)
    lines = text.splitlines()
    for _ in range(rng.choice((1, 1, 3))):
        at = rng.randrange(len(lines))
        lines[at] = mutate_json(lines[at], rng).replace(b"\n", b" ")
    return b"\n".join(lines) + b"\n"


def mutate_safetensors(data: bytes, rng: random.Random) -> bytes:
    """Return a safetensors file with another header, other numbers, or cut."""
    action = rng.random()
    if action < 0.3:
        return mutate_bytes(data, rng)
    (size,) = struct.unpack("<Q", data[:8])
    header, body = data[8 : 8 + size], data[8 + size :]
    if action < 0.75:
        header = mutate_json(header, rng)
    elif action < 0.85:  # numbers that are no numbers
        at = rng.randrange(max(1, len(body) // 4)) * 4
        body = body[:at] + struct.pack("<f", rng.choice((math.nan, math.inf, 1e38))) + body[at + 4 :]
    else:
        length = rng.choice((0, size - 1, size + 1, 2**40, 2**63, 2**64 - 1))
        return struct.pack("<Q", length) + header + body
    return struct.pack("<Q", len(header)) + header + body
