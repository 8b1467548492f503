"""What a conversation is made of: messages, the parts of their content, and calls of tools."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from coterie.config.errors import DataError

ROLES = ("system", "user", "assistant", "tool")
# The names that the chat and responses APIs of OpenAI give to a part of text.
_TEXT_PARTS = ("text", "input_text", "output_text")


@dataclass(frozen=True)
class TextPart:
    """A part of a message's content that is text."""

    text: str


# The kinds of part a message may hold. A kind for images or audio is one more class in this union.
Part: TypeAlias = TextPart


@dataclass(frozen=True)
class ToolCall:
    """One call of a tool by the assistant; `arguments` is a JSON object."""

    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, init=False)
class Message:
    """One turn. `reasoning` and `tool_calls` belong to assistants; `name` is the tool's for role `tool`.

    `content` is a tuple of parts; an empty one means that the message says nothing.
    """

    role: str
    content: tuple[Part, ...]
    reasoning: str | None
    tool_calls: tuple[ToolCall, ...]
    name: str | None

    def __init__(
        self,
        role: str,
        content: str | Sequence[Part] = (),
        reasoning: str | None = None,
        tool_calls: Sequence[ToolCall] = (),
        name: str | None = None,
    ) -> None:
        """`content`: parts, or a text, which becomes one part (the empty text none)."""
        if isinstance(content, str):
            content = (TextPart(content),) if content else ()
        fields: dict[str, Any] = {"role": role, "content": tuple(content), "reasoning": reasoning}
        fields |= {"tool_calls": tuple(tool_calls), "name": name}
        for field, value in fields.items():
            object.__setattr__(self, field, value)  # the only way to fill a frozen dataclass

    @property
    def text(self) -> str:
        """The text of the content, its parts joined without anything between them."""
        return "".join(part.text for part in self.content)

    def to_dict(self) -> dict[str, Any]:
        """The form that Hugging Face chat templates read; content whose parts are all text is a string."""
        data: dict[str, Any] = {"role": self.role, "content": self.text}
        if self.reasoning is not None:
            data["reasoning_content"] = self.reasoning
        if self.tool_calls:
            data["tool_calls"] = [
                {"type": "function", "function": {"name": call.name, "arguments": dict(call.arguments)}}
                for call in self.tool_calls
            ]
        if self.name is not None:
            data["name"] = self.name
        return data

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Message:
        """Read the OpenAI / Hugging Face form; content is a string or a list of parts.

        Errors: `DataError` naming the field, also for a part that is not text.
        """
        role, content = data.get("role"), data.get("content")
        if role not in ROLES:
            raise DataError(f"message: role {role!r} is not one of {', '.join(ROLES)}")
        parts = _read_content(content)
        reasoning = data.get("reasoning_content", data.get("reasoning"))
        if reasoning is not None and not isinstance(reasoning, str):
            raise DataError(f"message: reasoning is {type(reasoning).__name__}; text was expected")
        given = data.get("tool_calls") or ()
        if not isinstance(given, list | tuple):
            raise DataError(f"message: tool_calls is {type(given).__name__}; a list was expected")
        calls = tuple(read_call(call) for call in given)
        if role != "assistant" and (calls or reasoning is not None):
            raise DataError(f"message: only an assistant has reasoning or tool calls, not role '{role}'")
        if content is None and not calls:
            raise DataError(f"message: role '{role}' has neither content nor tool calls")
        return Message(role, parts, reasoning, calls, data.get("name"))


def _read_content(content: Any) -> str | tuple[Part, ...]:
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list | tuple):
        raise DataError(f"message: content is {type(content).__name__}; text or a list of parts was expected")
    return tuple(_read_part(part, number) for number, part in enumerate(content, 1))


def _read_part(part: Any, number: int) -> Part:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind is None:
        raise DataError(f"message: part {number} of the content is not an object with a 'type'")
    if kind not in _TEXT_PARTS:
        raise DataError(f"message: part {number} of the content is '{kind}'; models here read text only")
    if not isinstance(part.get("text"), str):
        raise DataError(f"message: part {number} of the content has no 'text'")
    return TextPart(part["text"])


def read_call(data: Any) -> ToolCall:
    """A call in any of the published JSON forms. Errors: `DataError` naming what is missing."""
    inner = data.get("function", data) if isinstance(data, Mapping) else None
    name = inner.get("name") if isinstance(inner, Mapping) else None
    if not isinstance(inner, Mapping) or not isinstance(name, str) or not name:
        raise DataError("tool call: an object with 'name' and 'arguments' was expected")
    arguments = inner.get("arguments", inner.get("parameters", {}))
    if isinstance(arguments, str):  # OpenAI sends arguments as JSON text
        try:
            arguments = json.loads(arguments)
        except ValueError:
            raise DataError(f"tool call '{name}': arguments are not valid JSON") from None
    if not isinstance(arguments, Mapping):
        raise DataError(f"tool call '{name}': arguments must be an object")
    return ToolCall(name, dict(arguments))
