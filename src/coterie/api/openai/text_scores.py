"""Log-probabilities of a reply's text, which becomes certain some tokens after it was written."""

from __future__ import annotations

from typing import Any


class TextScores:
    """Gives each piece of a reply's text the log-probabilities of its tokens.

    The parser holds back text that may be the beginning of a mark. Its tokens wait here for the step that
    gives the text. The tokens of reasoning, of calls and of marks belong to no text.
    """

    def __init__(self) -> None:
        self._waiting: list[tuple[str, dict[str, Any] | None]] = []  # what a token wrote, its entry if unused

    def hold(self, written: str, entries: list[dict[str, Any]] | None) -> None:
        """A token was drawn that wrote `written`."""
        self._waiting += [(written, entry) for entry in entries or ()]

    def forget(self) -> None:
        """What was written is reasoning or a call; only the last token may go on with text."""
        del self._waiting[:-1]

    def of(self, text: str, begins: bool) -> list[dict[str, Any]]:
        """The entries of the tokens that wrote `text`. `begins`: no text came directly before it."""
        # Marks and white space that the parser drops may come before the first text of a message.
        written = "".join(piece for piece, _ in self._waiting)
        start = max(0, written.rfind(text)) if begins else 0
        end = start + len(text)
        found, left, after = [], [], 0
        for piece, entry in self._waiting:
            before, after = after, after + len(piece)
            # A token may write nothing: its bytes are the first of a character's.
            inside = before < end and (after > start or before == after == start)
            if inside and entry is not None:
                found.append(entry)
            if after > end or (before >= end and not piece):
                left.append((piece[max(0, end - before) :], None if inside else entry))
        self._waiting = left
        return found
