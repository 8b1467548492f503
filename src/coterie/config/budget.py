"""A budget of training as a user writes it: time, tokens or operations."""

from __future__ import annotations

import math
import re
from typing import Literal

from coterie.config.base import Settings
from coterie.config.errors import ConfigError

_UNITS: dict[str, tuple[Literal["seconds", "tokens", "flops"], float]] = {
    "s": ("seconds", 1),
    "m": ("seconds", 60),
    "min": ("seconds", 60),
    "h": ("seconds", 3600),
    "tok": ("tokens", 1),
    "ktok": ("tokens", 1e3),
    "mtok": ("tokens", 1e6),
    "gtok": ("tokens", 1e9),
    "flops": ("flops", 1),
}


class TrainingBudget(Settings):
    """What each training may use: `amount` of seconds, tokens or floating-point operations."""

    text: str
    kind: Literal["seconds", "tokens", "flops"]
    amount: float

    @classmethod
    def read(cls, text: str) -> TrainingBudget:
        """Read `10m`, `1.5h`, `5Mtok` or `1e15flops`. Errors: `ConfigError` for anything else."""
        found = re.fullmatch(r"\s*([0-9.]+(?:e\+?[0-9]+)?)\s*([a-z]+)\s*", text, re.IGNORECASE)
        unit = _UNITS.get(found[2].lower()) if found else None
        try:
            number = float(found[1]) if found else math.nan
        except ValueError:
            number = math.nan
        if unit is None or not 0 < number < math.inf:
            raise ConfigError(f"budget '{text}': write it as 10m or 2h, as 5Mtok, or as 1e15flops")
        return cls(text=text.strip(), kind=unit[0], amount=number * unit[1])
