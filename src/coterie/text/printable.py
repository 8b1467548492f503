"""Text of others, made safe for a terminal (no escapes that act) and for a file (whole characters)."""

from __future__ import annotations

import re
import sys

# Control characters except tab and line feed, line separators, marks that turn the direction of text, and
# halves of surrogate pairs. A terminal obeys the first; the others fake what is read, or cannot be written.
_ACTING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def printable(text: str) -> str:
    """A text whose control characters are escaped, except line feeds and tabs: they can fake output."""
    return _ACTING.sub(lambda found: repr(found[0])[1:-1], text)


def shown(text: str) -> str:
    """A text for standard output: `printable` at a terminal, and unchanged for a file or a program."""
    return printable(text) if sys.stdout.isatty() else text


def joined(text: str) -> str:
    """A text whose halves of surrogate pairs (from JSON) are joined, or U+FFFD where one is alone."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def capped(text: str, most: int) -> str:
    """A text of more than `most` characters without its middle, and how much of it is missing."""
    if len(text) <= most:
        return text
    half = most // 2
    return f"{text[:half]}\n... ({len(text) - 2 * half} characters left out) ...\n{text[-half:]}"
