"""Seeded damage: to JSON values, to bytes, and to the headers of safetensors files."""

from __future__ import annotations

import json
import struct
from random import Random
from typing import Any

HOSTILE: list[Any] = [
    None, True, False, -1, 0, 1, 2, 7, 2**31, 2**32, 2**40, 2**63, 2**64, 10**40, -(2**63), 0.5, -0.0, 1e308,
    float("nan"), float("inf"), "", "x", "../x", "/etc/passwd", "\ud800", "\x00", "9" * 5000, "a" * 70_000,
    [], {}, [[]], [1], ["x"], [[1]], [None], {"x": 1}, {"": {}}, [2**40] * 3, "(.*)*", "((a+)+)+$", "[",
]  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of everything inside a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, item in inner for found in ((*path, key), *places(item, (*path, key)))]


def damaged_json(text: bytes, random: Random) -> bytes:
    """JSON text in which one value is replaced, removed, renamed, nested, or the text itself is damaged."""
    kind = random.choice(["replace"] * 6 + ["remove", "rename", "nest", "twice", "bytes"])
    if kind == "bytes":
        return damaged_bytes(text, random)
    data = json.loads(text)
    *path, last = random.choice(places(data)[:400] or [("x",)])
    holder = data
    for key in path:
        holder = holder[key]
    value = random.choice(HOSTILE)
    if kind == "remove" and holder:
        del holder[last]
    elif kind == "rename" and isinstance(holder, dict) and last in holder:
        holder[random.choice(["", "x", "__metadata__", "\ud800", str(last) + " "])] = holder.pop(last)
    else:
        holder[last] = value
    new = json.dumps(data)
    if kind == "nest":
        new = new.replace(json.dumps(value), "[" * 3000 + "]" * 3000, 1)
    if kind == "twice":
        new = new.replace("{", '{"x": 1, "x": 2, ', 1)
    return new.encode()


def damaged_bytes(content: bytes, random: Random) -> bytes:
    """Bytes with flipped bits, cut short, with a hole, a large number or something more inside."""
    new, at = bytearray(content), random.randrange(len(content) or 1)
    if random.random() < 0.5:
        at = min(at, random.randrange(400))  # headers are where lies pay
    kind = random.choice(["flip", "cut", "hole", "number", "more", "empty", "other"])
    if kind == "flip":
        for _ in range(random.choice([1, 1, 1, 20])):
            new[random.randrange(len(new))] ^= 1 << random.randrange(8)
    elif kind == "hole":
        new[at : at + 100] = bytes(len(new[at : at + 100]))
    elif kind == "number":
        size = random.choice([4, 8])
        new[at : at + size] = random.choice([b"\xff", b"\x7f", b"\x00"]) * (size - 1) + b"\x01"
    elif kind == "more":
        new[at:at] = random.randbytes(random.choice([1, 8, 1000]))
    elif kind == "cut":
        del new[at:]
    else:
        new = bytearray(b"" if kind == "empty" else random.randbytes(500))
    return bytes(new)


def damaged_safetensors(content: bytes, random: Random) -> bytes:
    """A safetensors file whose header lies, or whose bytes are damaged."""
    if random.random() < 0.3:
        return damaged_bytes(content, random)
    (length,) = struct.unpack("<Q", content[:8])
    header = damaged_json(content[8 : 8 + length], random)
    size = random.choice([len(header)] * 6 + [len(header) + 1, 0, 2**63, 2**40])
    return struct.pack("<Q", size) + header + content[8 + length :]


def damaged(name: str, content: bytes, random: Random) -> bytes:
    """The damage that suits a file of this name."""
    if name.endswith(".safetensors"):
        return damaged_safetensors(content, random)
    return damaged_json(content, random) if name.endswith(".json") else damaged_bytes(content, random)
