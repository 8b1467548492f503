"""From the text of one reply to what a chat client reads: reasoning, content, tool calls.

Streaming sends the pieces as they come, plain answers add them up: both say the same.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass, field
from typing import Any

from coterie.text.chat import parse_reply


@dataclass
class Piece:
    """What became certain: text to add, or whole tool calls."""

    reasoning: str = ""
    content: str = ""
    calls: list[dict[str, Any]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.reasoning or self.content or self.calls)


class Assembler:
    """Takes the text of a reply in any pieces. `opened`: the prompt ended inside a reasoning block.

    `tools`: whether tool calls are looked for; otherwise their marks are text. `hide_calls`: calls are left out
    (`tool_choice: none`).
    """

    def __init__(self, opened: bool = False, tools: bool = True, hide_calls: bool = False) -> None:
        self._state = "reasoning" if opened else "start"
        self._tools = tools
        self._hide = hide_calls
        self._text = ""  # not yet decided
        self._begun = {"reasoning": False, "content": False}
        self._space = {"reasoning": "", "content": ""}
        self.num_calls = 0

    @property
    def reasoning(self) -> bool:
        """Whether the reply is inside its reasoning block."""
        return self._state == "reasoning"

    def feed(self, text: str) -> Piece:
        """The next text of the reply."""
        self._text += text
        piece = Piece()
        while self._advance(piece):
            pass
        return piece

    def finish(self) -> Piece:
        """What was held back, once no more text can come: a mark that was never completed is text."""
        piece = self.feed("")
        rest, self._text = self._text, ""
        if self._state == "call":
            rest = "<tool_call>" + rest
        self._add(piece, "reasoning" if self._state == "reasoning" else "content", rest)
        return piece

    def _advance(self, piece: Piece) -> bool:
        """One step; False when more text is needed."""
        if self._state == "start":
            bare = self._text.lstrip()
            if bare.startswith("<think>"):
                self._text, self._state = bare[len("<think>") :], "reasoning"
                return True
            if not bare or "<think>".startswith(bare):
                return False
            self._state = "content"
            return True
        if self._state == "reasoning":
            return self._until(piece, "</think>", "reasoning", "content")
        if self._state == "call":
            return self._call(piece)
        if not self._tools:
            self._add(piece, "content", self._text)
            self._text = ""
            return False
        return self._until(piece, "<tool_call>", "content", "call")

    def _until(self, piece: Piece, mark: str, part: str, then: str) -> bool:
        before, found, after = self._text.partition(mark)
        if found:
            self._add(piece, part, before)
            self._text, self._state = after, then
            return True
        keep = next((n for n in range(len(mark) - 1, 0, -1) if before.endswith(mark[:n])), 0)
        cut = len(before) - keep
        self._add(piece, part, before[:cut])
        self._text = before[cut:]
        return False

    def _call(self, piece: Piece) -> bool:
        inside, found, after = self._text.partition("</tool_call>")
        if not found:
            return False
        self._text, self._state = after, "content"
        whole = f"<tool_call>{inside}</tool_call>"
        calls = parse_reply(whole).tool_calls
        if not calls:
            self._add(piece, "content", whole)
        for call in calls if not self._hide else ():
            arguments = json.dumps(dict(call.arguments), ensure_ascii=False)
            function = {"name": call.name, "arguments": arguments}
            new_id = "call_" + secrets.token_hex(12)
            piece.calls.append({"index": self.num_calls, "id": new_id, "type": "function", "function": function})
            self.num_calls += 1
        return True

    def _add(self, piece: Piece, part: str, text: str) -> None:
        """Add text without white space at the start and, until more follows, at the end."""
        text = self._space[part] + text
        if not self._begun[part]:
            text = text.lstrip()
        kept = text.rstrip()
        self._space[part] = text[len(kept) :]
        if kept:
            self._begun[part] = True
            setattr(piece, part, getattr(piece, part) + kept)
