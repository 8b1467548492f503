"""Marks in a text that comes in pieces: the first one, and how much may be the beginning of one."""

from __future__ import annotations


def first_mark(text: str, marks: tuple[str, ...]) -> tuple[int, str]:
    """Place and text of the earliest mark, the longest of those that begin there; (-1, "") for none."""
    found = [(text.find(mark), -len(mark), mark) for mark in marks if mark in text]
    at, _, mark = min(found, default=(-1, 0, ""))
    return at, mark


def num_held(text: str, marks: tuple[str, ...]) -> int:
    """How many characters at the end of `text` may be the beginning of a mark."""
    longest = max(map(len, marks), default=1) - 1
    ends = range(min(longest, len(text)), 0, -1)
    return next((n for n in ends if any(mark.startswith(text[-n:]) for mark in marks)), 0)
