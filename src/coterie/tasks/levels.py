"""Levels as people write them: `3`, `0-4`, `0,2,5-7`."""

from __future__ import annotations

import re
from collections.abc import Sequence

from coterie.config.errors import ConfigError
from coterie.tasks.problem import EXTRA

_PART = re.compile(r"(\d{1,3})(?:-(\d{1,3}))?")


def read_levels(text: str | None, known: Sequence[int]) -> list[int]:
    """The levels of a text; None: all that are trained on. Errors: `ConfigError` for unknown ones."""
    trained = [level for level in known if level < EXTRA]
    if text is None:
        return trained
    found: list[int] = []
    for part in text.split(","):
        match = _PART.fullmatch(part.strip())
        if match is None:
            raise ConfigError(f"levels '{text:.40}': write them as 3, 0-4 or 0,2,5")
        low, high = int(match[1]), int(match[2] or match[1])
        found += range(low, high + 1)
    wrong = [level for level in found if level not in known]
    if wrong or not found:
        raise ConfigError(f"levels '{text:.40}': this task has levels {known[0]} to {known[-1]}")
    return list(dict.fromkeys(found))
