"""Text that ends a reply, found however the reply is cut into pieces."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Passes text through until the first stop string is complete; a possible start of one is held back.

    The result does not depend on how the text is cut into pieces: the stop string that ends first wins, and
    of several that end together the longest. `include`: it is passed through as well. While `armed` is false,
    text is passed through unseen. `found`: the stop string that ended the text.
    """

    def __init__(self, stops: Sequence[str], include: bool = False) -> None:
        self._stops = tuple(stops)
        self._include = include
        self.armed = True
        self.found: str | None = None
        self._longest = max(map(len, stops), default=0)
        self._held = ""

    def push(self, piece: str) -> tuple[str, bool]:
        """(text that is certain, whether a stop string was found: it and all later text are dropped)."""
        if not self._stops:
            return piece, False
        text = self._held + piece
        if not self.armed:
            self._held = ""
            return text, False
        found = [(at + len(stop), at) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self._held = ""
            end, start = min(found)
            self.found = text[start:end]
            return text[: end if self._include else start], True
        keep = next(
            (n for n in range(min(self._longest - 1, len(text)), 0, -1) if self._may_begin(text[-n:])),
            0,
        )
        cut = len(text) - keep
        self._held = text[cut:]
        return text[:cut], False

    def finish(self) -> str:
        """The text held back, once no more text can follow."""
        held, self._held = self._held, ""
        return held

    def _may_begin(self, end: str) -> bool:
        return any(stop.startswith(end) for stop in self._stops)
