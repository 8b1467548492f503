"""Checks the arithmetic that a text claims: `12 + 7 = 19` is right, `2 * 3 = 7` is wrong.

Only complete claims between numbers are checked; what may belong to a longer expression, a variable or a unit
written without a space is left alone. Values come from `sandbox.arithmetic`, never from `eval`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from coterie.sandbox.arithmetic import ArithmeticRefused, evaluate

LONGEST, MOST = 200, 200  # characters of a claim; claims of one text
_NUMBER = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?"
_SIGNS = {"×": "*", "·": "*", "÷": "/", "−": "-", "^": "**", "\\times": "*", "\\cdot": "*", "\\div": "/"}
_SPELT = re.compile("|".join(map(re.escape, sorted(_SIGNS, key=len, reverse=True))))
_CHAIN = re.compile(rf"(?:{_NUMBER}|\*\*|[-+*/()=≈ \t])+")
_OPERATION = re.compile(r"[\d)]\s*(?:\*\*|[-+*/])\s*[-(\d]")
_PLAIN = re.compile(rf"[-+]?{_NUMBER}")
# Words around a claim that make it part of something else.
_BEFORE = re.compile(r"(?:mod|of|over|times|plus|minus|by|log|sqrt|than|\bbase \d+:?)\s*$", re.IGNORECASE)
_AFTER = re.compile(r"\s*(?:[A-Za-z]\b|[%!°]|\(?\s*mod\b|r(?:em(?:ainder)?)?\b|times\b|plus\b|minus\b)", re.I)


@dataclass(frozen=True)
class SumCheck:
    """One claim of a text: its words, whether it is right, and the value of its left side."""

    text: str
    right: bool
    value: str

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {"text": self.text, "right": self.right, "value": self.value}


def check_sums(text: str) -> list[SumCheck]:
    """The claims of a text in order, `MOST` at most."""
    found: list[SumCheck] = []
    for line in text.splitlines():
        found += _of_line(_SPELT.sub(lambda sign: _SIGNS[sign[0]], line))
        if len(found) >= MOST:
            break
    return found[:MOST]


def _of_line(line: str) -> Iterator[SumCheck]:
    for chain in _CHAIN.finditer(line):
        if "=" not in chain[0] and "≈" not in chain[0]:
            continue
        sides = re.split(r"[=≈]", chain[0])
        for place, (left, right) in enumerate(pairwise(sides)):
            if place == 0 and _goes_back(line[: chain.start()], left):
                continue
            if place + 2 == len(sides) and _goes_on(line[chain.end() :], right):
                continue
            if claim := _judged(left.strip(), right.strip()):
                yield claim


def _goes_back(before: str, left: str) -> bool:
    """Whether the first side of a chain is the end of something longer."""
    if before and (before[-1].isalnum() or before[-1] in "_.,\\}])") and not left[:1].isspace():
        return True
    bare = left.strip()
    if bare[:1] in ("+", "*", "/"):
        return True
    if bare.startswith("-"):  # a sign, or the end of `x - 3`
        last = re.search(r"\S+\s*$", before)
        return last is not None and not re.fullmatch(r"[A-Za-z]{2,}[:,]?|[:,;(]", last[0].strip())
    return _BEFORE.search(before) is not None


def _goes_on(after: str, right: str) -> bool:
    """Whether the last side of a chain is the beginning of something longer."""
    if right.rstrip().endswith(("+", "-", "*", "/", "(")):
        return True
    attached = not right[-1:].isspace() and re.match(r"[A-Za-z_\\{\[]|\.\d|,\d", after)
    return bool(attached) or _AFTER.match(after) is not None


def _judged(left: str, right: str) -> SumCheck | None:
    if not left or not right or len(left) + len(right) > LONGEST:
        return None
    if not (_OPERATION.search(left) or _OPERATION.search(right)):
        return None
    values = []
    for side in (left, right):
        try:
            values.append(evaluate(re.sub(r"\b0+(?=\d)", "", side.replace(",", ""))))
        except ArithmeticRefused:
            return None
    return SumCheck(f"{left} = {right}", _same(values[0], values[1], left, right), values[0])


def _same(one: str, other: str, left: str, right: str) -> bool:
    """Equal, or equal to as many decimals as a side writes that is one number."""
    if one == other:
        return True
    first, second = float(one), float(other)
    for side in (left, right):
        if _PLAIN.fullmatch(side) and "." in side:
            decimals = len(side.partition(".")[2])
            return abs(first - second) <= 0.5 * 10.0**-decimals * (1 + 1e-9)
    return abs(first - second) <= 1e-9 * max(abs(first), abs(second))
