"""Control tokens that people type stay text: a user who writes `<|im_end|>` does not end the turn.

People's words are those of users and of tools, the descriptions of tools, and the names that a client gives a
template. An assistant's and a system's words are the model's own, and control tokens in them are tokens.

Most conversations hold no typed control token and are rendered as they are. In the others each typed one is
put between two private-use characters that occur nowhere in the conversation, as transformers does it for
`sanitize_control_tokens`. The marks are taken out of the rendered text, which tells what was typed where.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from coterie.text.guarded import names_pattern
from coterie.text.messages import Message, TextPart

_PRIVATE = range(0xF0000, 0x10FFFE)  # Unicode's supplementary private-use planes
_MARK = re.compile("[\U000f0000-\U0010ffff]")
_PEOPLE = ("user", "tool")


@dataclass(frozen=True)
class Talk:
    """What a template is given: messages, tools, and more names for it."""

    messages: Sequence[Message]
    tools: Sequence[Mapping[str, Any]] | None = None
    variables: Mapping[str, Any] | None = None

    def typed(self) -> Iterable[str]:
        """Every text that people wrote, keys of objects included."""
        for message in self.messages:
            if message.role in _PEOPLE:
                yield from (text for _, text in _texts_of(message))
                yield from _strings(message.extra)
        yield from _strings([self.tools or (), self.variables or {}])

    def unused(self, count: int) -> list[str]:
        """Private-use characters that occur nowhere in the conversation, the same ones every time."""
        used: set[str] = set()
        for text in _strings([[vars(part) for part in _flat(self.messages)], self.tools or ()]):
            used.update(text)
        used.update(char for text in _strings(self.variables or {}) for char in text)
        free = (chr(code) for code in _PRIVATE if chr(code) not in used)
        return [char for char, _ in zip(free, range(count), strict=False)]


@dataclass(frozen=True)
class Shown:
    """A rendered conversation without marks, and where people typed control tokens: their starts and ends."""

    text: str
    starts: frozenset[int] = frozenset()
    ends: frozenset[int] = frozenset()

    def is_token(self, name: str, place: int) -> bool:
        """Whether the control token `name` at `place` is the template's or the model's own."""
        return place not in self.starts and place + len(name) not in self.ends


@dataclass(frozen=True)
class TypedMarks:
    """The two characters around a typed control token."""

    start: str
    end: str

    def put(self, talk: Talk, control: frozenset[str]) -> Talk:
        """The conversation with every typed control token between the marks."""
        pattern = names_pattern(control)

        def mark(text: str) -> str:
            return pattern.sub(lambda found: f"{self.start}{found[0]}{self.end}", text)

        messages = []
        for message in talk.messages:
            if message.role in _PEOPLE:
                # Parts are marked as the one text that they become, or a token could be typed in two halves.
                new: dict[str, Any] = {name: mark(text) for name, text in _texts_of(message)}
                if "content" in new:
                    new["content"] = (TextPart(new["content"]),)
                message = replace(message, **new, extra=with_strings(message.extra, mark))
            messages.append(message)
        return Talk(messages, with_strings(talk.tools, mark), with_strings(talk.variables, mark))

    def take(self, rendered: str) -> Shown:
        """The rendered text without the marks."""
        for char in (self.start, self.end):  # a template may write JSON in ASCII
            rendered = rendered.replace(json.dumps(char)[1:-1], char)
        text, found = without(rendered, (self.start, self.end))
        places = {
            char: frozenset(at for at, mark in found if mark == char) for char in (self.start, self.end)
        }
        return Shown(text, places[self.start], places[self.end])


def without(text: str, chars: Collection[str]) -> tuple[str, list[tuple[int, str]]]:
    """A text without `chars` (private-use ones), and each of them with its place in the new text."""
    wanted = frozenset(chars)
    found: list[tuple[int, str]] = []
    parts, done = [], 0
    # One range: a class of many characters takes time for each of them at every place of the text.
    for match in _MARK.finditer(text):
        if match[0] in wanted:
            parts.append(text[done : match.start()])
            done = match.end()
            found.append((match.start() - len(found), match[0]))
    return "".join((*parts, text[done:])), found


def typed_names(talk: Talk, control: frozenset[str]) -> list[str]:
    """The control tokens that people typed, in their order; they stay text."""
    if not control:
        return []
    pattern = names_pattern(control)
    return list(dict.fromkeys(name for text in talk.typed() for name in pattern.findall(text)))


def _texts_of(message: Message) -> list[tuple[str, str]]:
    """The texts of a message by field; its content as one text."""
    found = [("content", message.text)] if message.content else []
    for field in fields(message):
        value = getattr(message, field.name)
        if field.name not in ("role", "form") and isinstance(value, str):
            found.append((field.name, value))
    return found


def _flat(messages: Sequence[Message]) -> Iterable[Any]:
    for message in messages:
        yield message
        yield from message.content
        yield from message.tool_calls


def _strings(value: Any) -> Iterable[str]:
    """Every string in a JSON value, keys of objects included, in their order."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, Mapping):
            waiting += [part for pair in reversed(list(item.items())) for part in reversed(pair)]
        elif isinstance(item, list | tuple):
            waiting += reversed(item)


def with_strings(value: Any, change: Callable[[str], str]) -> Any:
    """A JSON value with every string changed, keys of objects included."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {change(key): with_strings(item, change) for key, item in value.items()}
    return [with_strings(item, change) for item in value] if isinstance(value, list | tuple) else value
