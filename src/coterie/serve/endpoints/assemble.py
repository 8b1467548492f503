"""From the text of one reply to what a chat client reads: reasoning, content, tool calls.

Streaming sends the pieces as they come, plain answers add them up: both say the same.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass, field
from typing import Any

from coterie.text.replies import Delta, ReplyParser
from coterie.text.reply_formats import ReplyFormat


@dataclass
class Piece:
    """What became certain: text to add, or whole tool calls."""

    reasoning: str = ""
    content: str = ""
    calls: list[dict[str, Any]] = field(default_factory=list)


class Assembler:
    """Takes the text of a reply in any pieces, by the family's format.

    `opened`: the prompt ended inside a reasoning block. `tools`: whether tool calls are looked for; otherwise
    their marks are text. `hide_calls`: calls are left out (`tool_choice: none`).
    """

    def __init__(
        self,
        form: ReplyFormat | None = None,
        opened: bool = False,
        tools: bool = True,
        hide_calls: bool = False,
    ) -> None:
        self._parser = ReplyParser(form, opened, tools)
        self._hide = hide_calls
        self.num_calls = 0

    @property
    def reasoning(self) -> bool:
        """Whether the reply is inside its reasoning block."""
        return self._parser.reasoning

    def feed(self, text: str) -> Piece:
        """The next text of the reply."""
        return self._piece(self._parser.feed(text))

    def finish(self) -> Piece:
        """What was held back, once no more text can come: a mark that was never completed is text."""
        return self._piece(self._parser.flush())

    def _piece(self, delta: Delta) -> Piece:
        piece = Piece(delta.reasoning, delta.content)
        for call in delta.calls if not self._hide else ():
            arguments = json.dumps(dict(call.arguments), ensure_ascii=False)
            function = {"name": call.name, "arguments": arguments}
            new_id = "call_" + secrets.token_hex(12)
            piece.calls.append(
                {"index": self.num_calls, "id": new_id, "type": "function", "function": function}
            )
            self.num_calls += 1
        return piece
