"""Where the weights of routed experts are while a model is used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from coterie.config.base import suggest
from coterie.config.errors import ConfigError

Where = Literal["auto", "memory", "disk"]
PLACES: tuple[Where, ...] = get_args(Where)


@dataclass(frozen=True)
class ExpertPlace:
    """`memory`: all in memory. `disk`: read when they are chosen. `auto`: disk where the weights do not fit.

    `room`: bytes of memory for experts that are on disk (None: what the model may take, less the rest of it).
    `memory`: bytes that the whole model may take (None: what this machine or container has, less a margin).
    `uses`: how often each expert was chosen, by layer (`coterie profile`); the busiest are read first.
    """

    where: Where = "memory"
    room: int | None = None
    memory: int | None = None
    uses: Mapping[int, Sequence[int]] | None = None

    @classmethod
    def parse(
        cls,
        where: str,
        room: int | None = None,
        memory: int | None = None,
        uses: Mapping[int, Sequence[int]] | None = None,
    ) -> ExpertPlace:
        """Errors: `ConfigError` for another word, and for bytes of experts that are not on disk."""
        if where not in PLACES:
            hint = suggest(where, list(PLACES)) or f"; known: {', '.join(PLACES)}"
            raise ConfigError(f"experts: unknown place '{where}'{hint}")
        if where == "memory" and (room is not None or uses is not None):
            raise ConfigError("experts: with all experts in memory, leave out their memory and profile")
        return cls(where, room, memory, uses)
