"""Rules of published configs that pick modules by name: texts, and regular expressions that cannot hang."""

from __future__ import annotations

import re

from coterie.checkpoints.quantised.settings import QuantSettings
from coterie.config import CheckpointError
from coterie.config.patterns import may_explode

_LONGEST = 500


def compiled(text: str, settings: QuantSettings) -> re.Pattern[str]:
    """A rule as a pattern for `match`. Errors: `CheckpointError` for one that is wrong or could hang."""
    try:
        if len(text) <= _LONGEST and not may_explode(text):
            return re.compile(text)
        why = "is too long or repeats a repetition"
    except re.error as error:
        why = f"is not a regular expression ({error})"
    shown = text if len(text) <= 100 else f"{text[:97]}..."
    raise CheckpointError(f"{settings.where}: the rule {shown!r} {why}")
