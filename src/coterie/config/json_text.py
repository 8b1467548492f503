"""The one reader of JSON text: every limit is checked before anything is built, in time linear in the text.

`json.loads` alone recurses once per level, takes a repeated key's last value without a word, reads NaN,
1e999 and halves of surrogate pairs, and builds integers of any length. Each of these ends later, elsewhere,
as a traceback or a wrong value.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_NOT_STRUCTURE = bytes(set(range(256)) - set(b'"[]{},'))
_NUMBERS = bytes(
    ord("0") if byte in b"0123456789" else ord("e") if byte in b"eE" else byte if byte in b"+" else ord(" ")
    for byte in range(256)
)


class JsonError(ValueError):
    """JSON text that cannot be used; the message completes a sentence: FILE "is not valid JSON"."""


@dataclass(frozen=True)
class JsonLimits:
    """What one place accepts.

    `size`: bytes of text. `depth`: levels of lists and objects. `digits`: of one integer; with 300, every
    integer is also a finite float. `items`: of one list or object (None: as many as fit in `size`).
    `values`: of all lists and objects together. `repeated_keys`: the last value of a key wins, as in
    `json.loads`; otherwise a repeated key is refused. `not_finite`: NaN and Infinity are read.
    `half_surrogates`: text that no encoding can hold is read.
    """

    size: int = 64 * 2**20
    depth: int = 100
    digits: int = 300
    items: int | None = None
    values: int | None = None
    repeated_keys: bool = False
    not_finite: bool = False
    half_surrogates: bool = False


ANY_TEXT = JsonLimits()


def parse_json(content: bytes | str, limits: JsonLimits = ANY_TEXT) -> Any:
    """The value that JSON text holds.

    Errors: `JsonError` for text beyond `limits`, for what is not UTF-8 and for what is not JSON.
    """
    raw = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else bytes(content)
    if len(raw) > limits.size:
        raise JsonError(f"holds more than the {limits.size:,} bytes that are read")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if not (isinstance(content, str) and limits.half_surrogates):
            raise JsonError(f"is not UTF-8 text (byte {error.start:,})") from None
        text = content
    _check_structure(raw, limits)
    try:
        value = json.loads(text, parse_constant=_constant(limits), **_hooks(raw, limits))
    except JsonError:
        raise
    except ValueError as error:
        raise JsonError(f"is not valid JSON ({str(error)[:160]})") from None
    if limits.items is not None or (not limits.half_surrogates and _SURROGATE.search(raw)):
        _check_values(value, limits)
    return value


def parse_json_object(content: bytes | str, limits: JsonLimits = ANY_TEXT) -> dict[str, Any]:
    """`parse_json` for text that must hold one object. Errors: `JsonError`."""
    value = parse_json(content, limits)
    if not isinstance(value, dict):
        raise JsonError(f"holds a {type(value).__name__}, an object was expected")
    return cast(dict[str, Any], value)


def _check_structure(raw: bytes, limits: JsonLimits) -> None:
    """Check the depth of brackets and the number of values, by the bytes outside strings."""
    many = limits.values is not None and raw.count(b",") >= limits.values
    if not many and raw.count(b"[") + raw.count(b"{") <= limits.depth:
        return
    if b"\\" in raw:  # pairs of backslashes first, so that what is left before a quote escapes it
        raw = raw.replace(b"\\\\", b"").replace(b'\\"', b"")
    import numpy as np  # here, because most texts are decided above and commands start faster without it

    marks = np.frombuffer(raw.translate(None, _NOT_STRUCTURE), dtype=np.uint8)
    outside = marks[np.cumsum(marks == ord('"'), dtype=np.uint8) % 2 == 0]  # wraps at 256, which is even
    step = np.zeros(256, dtype=np.int8)
    step[list(b"[{")], step[list(b"]}")] = 1, -1
    if int(np.cumsum(step[outside], dtype=np.int32).max(initial=0)) > limits.depth:
        raise JsonError(f"is nested deeper than {limits.depth} levels")
    if limits.values is not None and np.count_nonzero(outside == ord(",")) >= limits.values:
        raise JsonError(f"holds more than {limits.values:,} values")


def _hooks(raw: bytes, limits: JsonLimits) -> dict[str, Any]:
    """The hooks of `json.loads` that this text needs: each costs a call per value, so few texts get one."""
    hooks: dict[str, Any] = {}
    if not limits.repeated_keys:
        hooks["object_pairs_hook"] = _without_repeats
    if _large_numbers(raw, limits.digits):
        hooks["parse_int"] = lambda text: _integer(text, limits.digits)
        if not limits.not_finite:
            hooks["parse_float"] = _finite
    return hooks


def _large_numbers(raw: bytes, digits: int) -> bool:
    """Whether the text may hold a number that is too large: a long run of digits, or a long exponent."""
    marks = raw.translate(_NUMBERS)
    return any(run in marks for run in (b"0" * (digits + 1), b"e000", b"e+000"))


def _integer(text: str, digits: int) -> int:
    if len(text.lstrip("-")) > digits:
        raise JsonError(f"holds an integer of {len(text.lstrip('-'))} digits; at most {digits} are read")
    return int(text)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise JsonError(f"holds a number that is too large ({text[:40]})")
    return number


def _constant(limits: JsonLimits) -> Callable[[str], float]:
    def read(name: str) -> float:
        if not limits.not_finite:
            raise JsonError(f"holds {name}, which is not a JSON number")
        return float(name)

    return read


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise JsonError(f"has the key {json.dumps(name[:60])} twice in one object")
            seen.add(name)
    return data


def _check_values(value: Any, limits: JsonLimits) -> None:
    """Check text and numbers of items, without recursion: the value may be as deep as `limits.depth`."""
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, str) and not limits.half_surrogates and not encodable(item):
            raise JsonError("holds a text with half of a surrogate pair; write whole characters")
        if isinstance(item, dict | list):
            if limits.items is not None and len(item) > limits.items:
                raise JsonError(
                    f"has a list or object of {len(item):,} entries; {limits.items:,} are allowed"
                )
            pending += item
            if isinstance(item, dict):
                pending += item.values()


def encodable(text: str) -> bool:
    """Whether text holds whole characters only, and no half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
