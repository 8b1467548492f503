"""Control tokens that people type stay text: a user who writes `<|im_end|>` does not end the turn.

Before a conversation is rendered, each control token inside a message or a tool is replaced by a private-use
character that occurs nowhere in the conversation. All control tokens in the rendered text are then the
template's own. Those become ids. Everything else is encoded as plain text, with the characters turned back.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from coterie.text.messages import Message, TextPart, ToolCall
from coterie.text.tokenizer import Tokenizer

_PRIVATE = range(0xF0000, 0x10FFFE)  # Unicode's supplementary private-use planes


class SafeConversation:
    """A conversation whose texts hold no control token of `tokenizer`, and the way back to its ids.

    `marks`: further texts that only the template may write, such as a plain-text header of replies.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None = None,
        marks: Sequence[str] = (),
    ) -> None:
        self._tokenizer = tokenizer
        self._added = tokenizer.added_tokens
        # Longest first, so that a token is found before another one that it contains.
        hidden = sorted({*self._added, *marks}, key=lambda text: (-len(text), text))
        used = {char for text in _strings([[m.to_dict() for m in messages], tools or ()]) for char in text}
        free = (chr(code) for code in _PRIVATE if chr(code) not in used)
        self._char_of = dict(zip(hidden, free, strict=False))
        self._text_of = {ord(char): text for text, char in self._char_of.items()}
        self._hidden = _any_of(hidden)
        self._control = _any_of([text for text in hidden if text in self._added])
        self.messages = [self._safe(message) for message in messages]
        self.tools: list[Any] = self._hide(list(tools or ()))

    def ids(self, pieces: Iterable[str]) -> list[int]:
        """Token ids of rendered text, each piece encoded apart."""
        split = self._control.split if self._control else lambda piece: [piece]
        parts = [part for piece in pieces for part in split(piece) if part]
        plain = [part.translate(self._text_of) for part in parts if part not in self._added]
        encoded = iter(self._tokenizer.encode_batch(plain))
        ids: list[int] = []
        for part in parts:
            if part in self._added:
                ids.append(self._added[part])
            else:
                ids.extend(next(encoded))
        return ids

    def _safe(self, message: Message) -> Message:
        return replace(
            message,
            content=tuple(TextPart(self._hide(part.text)) for part in message.content),
            reasoning=self._hide(message.reasoning),
            name=self._hide(message.name),
            tool_calls=tuple(
                ToolCall(self._hide(call.name), self._hide(call.arguments)) for call in message.tool_calls
            ),
        )

    def _hide(self, value: Any) -> Any:
        """A JSON value with the hidden texts replaced in every string, keys of objects included."""
        if isinstance(value, str):
            return self._hidden.sub(lambda found: self._char_of[found[0]], value) if self._hidden else value
        if isinstance(value, Mapping):
            return {self._hide(key): self._hide(item) for key, item in value.items()}
        return [self._hide(item) for item in value] if isinstance(value, list | tuple) else value


def _any_of(texts: Sequence[str]) -> re.Pattern[str] | None:
    """A pattern (one group) that matches any of `texts`, earlier ones first; None without texts."""
    return re.compile(f"({'|'.join(map(re.escape, texts))})") if texts else None


def _strings(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _strings(key)
            yield from _strings(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _strings(item)
