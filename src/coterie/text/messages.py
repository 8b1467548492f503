"""What a conversation is made of: messages, the parts of their content, and calls of tools."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from coterie.config.errors import DataError
from coterie.config.json_text import JsonError, JsonLimits, parse_json

ROLES = ("system", "user", "assistant", "tool")
MAX_DEPTH = 100  # of nested objects and lists in arguments and in further fields
_ARGUMENTS = JsonLimits(depth=MAX_DEPTH, repeated_keys=True)
# The names that the chat and responses APIs of OpenAI give to a part of text.
_TEXT_PARTS = ("text", "input_text", "output_text")
# The names that servers and datasets give to reasoning, in the order in which transformers looks for it.
REASONING = ("reasoning_content", "thinking", "reasoning")
_FIELDS = frozenset({"role", "content", "tool_calls", "tool_call_id", "name", *REASONING})
# How a message gave its content: as a text, as a list of parts, or not at all.
Form: TypeAlias = Literal["text", "parts", "nothing"]


@dataclass(frozen=True)
class TextPart:
    """A part of a message's content that is text."""

    text: str


# The kinds of part a message may hold. A kind for images or audio is one more class in this union.
Part: TypeAlias = TextPart


@dataclass(frozen=True)
class ToolCall:
    """One call of a tool by the assistant; `arguments` is a JSON object.

    `id` ties a result to the call. Calls that differ in it alone are equal, because they do the same.
    """

    name: str
    arguments: Mapping[str, Any]
    id: str | None = field(default=None, compare=False)


def long_id() -> str:
    """A new id of a call, as OpenAI writes them."""
    return "call_" + secrets.token_hex(12)


def short_id() -> str:
    """A new id of a call for templates that insist on nine letters and digits, as Mistral's do."""
    return secrets.token_hex(5)[:9]


@dataclass(frozen=True, init=False)
class Message:
    """One turn. `reasoning` and `tool_calls` belong to assistants; `name` is the tool's for role `tool`.

    `content` is a tuple of parts; an empty one means that the message says nothing. `tool_call_id`: the call
    whose result this is. `form`: how the content was given, and `calls_it_reasoning`: whether the reasoning
    came under the name `reasoning`; templates can tell. `extra`: further fields, which a template may read.
    `keys`: the order of the fields, for templates that write a message as JSON. Messages that differ only in
    these four say the same, so they are equal.
    """

    role: str
    content: tuple[Part, ...]
    reasoning: str | None
    tool_calls: tuple[ToolCall, ...]
    name: str | None
    tool_call_id: str | None
    form: Form = field(compare=False)
    calls_it_reasoning: bool = field(compare=False)
    extra: Mapping[str, Any] = field(compare=False)
    keys: tuple[str, ...] = field(compare=False)

    def __init__(
        self,
        role: str,
        content: str | Sequence[Part] | None = None,
        reasoning: str | None = None,
        tool_calls: Sequence[ToolCall] = (),
        name: str | None = None,
        tool_call_id: str | None = None,
        form: Form | None = None,
        calls_it_reasoning: bool = False,
        extra: Mapping[str, Any] | None = None,
        keys: tuple[str, ...] = (),
    ) -> None:
        """`content`: parts, or a text, which becomes one part (the empty text none), or None for nothing.

        `form` only matters when `content` is parts; it is that of `content` by default.
        """
        if content is None or isinstance(content, str):
            form = "nothing" if content is None else "text"
            content = (TextPart(content),) if content else ()
        fields: dict[str, Any] = {"role": role, "content": tuple(content), "reasoning": reasoning}
        fields |= {"tool_calls": tuple(tool_calls), "name": name, "tool_call_id": tool_call_id}
        fields |= {"form": form or "parts", "calls_it_reasoning": calls_it_reasoning, "extra": extra or {}}
        fields["keys"] = keys
        for key, value in fields.items():
            object.__setattr__(self, key, value)  # the only way to fill a frozen dataclass

    @property
    def text(self) -> str:
        """The text of the content, its parts joined without anything between them."""
        return "".join(part.text for part in self.content)

    def to_dict(self) -> dict[str, Any]:
        """The form that the OpenAI API and datasets use; content whose parts are all text is a string."""
        data: dict[str, Any] = {"role": self.role, "content": None if self.form == "nothing" else self.text}
        if self.reasoning is not None:
            data["reasoning_content"] = self.reasoning
        if self.tool_calls:
            data["tool_calls"] = [_call_to_dict(call) for call in self.tool_calls]
        if self.tool_call_id is not None:
            data["tool_call_id"] = self.tool_call_id
        if self.name is not None:
            data["name"] = self.name
        return {**data, **self.extra}

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Message:
        """Read the OpenAI / Hugging Face form; content is a string or a list of parts.

        A field that is null counts as missing. Errors: `DataError` naming the field, also for a part that is
        not text.
        """
        role, content = data.get("role"), data.get("content")
        if role not in ROLES:
            raise DataError(f"message: role {role!r} is not one of {', '.join(ROLES)}")
        parts = _read_content(content)
        reasoning = _read_reasoning(data)
        given = data.get("tool_calls") or ()
        if not isinstance(given, list | tuple):
            raise DataError(f"message: tool_calls is {type(given).__name__}; a list was expected")
        calls = tuple(read_call(call) for call in given)
        if role != "assistant" and (calls or reasoning is not None):
            raise DataError(f"message: only an assistant has reasoning or tool calls, not role '{role}'")
        if content is None and not calls:
            raise DataError(f"message: role '{role}' has neither content nor tool calls")
        for key in ("name", "tool_call_id"):
            if not isinstance(data.get(key), str | None):
                raise DataError(f"message: {key} is {type(data[key]).__name__}; text was expected")
        return Message(
            role,
            parts,
            reasoning,
            calls,
            data.get("name"),
            data.get("tool_call_id"),
            keys=tuple(map(str, data)),
            calls_it_reasoning=data.get("reasoning") is not None,
            extra={
                key: plain(key, data[key]) for key in data if key not in _FIELDS and data[key] is not None
            },
        )


def _call_to_dict(call: ToolCall) -> dict[str, Any]:
    named = {} if call.id is None else {"id": call.id}
    return {**named, "type": "function", "function": {"name": call.name, "arguments": dict(call.arguments)}}


def _read_content(content: Any) -> str | tuple[Part, ...] | None:
    if content is None or isinstance(content, str):
        return content
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


def _read_reasoning(data: Mapping[str, Any]) -> str | None:
    given = {name: data[name] for name in REASONING if data.get(name) is not None}
    for name, text in given.items():
        if not isinstance(text, str):
            raise DataError(f"message: {name} is {type(text).__name__}; text was expected")
    if len(set(given.values())) > 1:
        raise DataError(f"message: {' and '.join(given)} differ; keep one of them")
    return next(iter(given.values()), None)


def read_call(data: Any) -> ToolCall:
    """A call in any of the published JSON forms. Errors: `DataError` naming what is missing."""
    inner = data.get("function", data) if isinstance(data, Mapping) else None
    name = inner.get("name") if isinstance(inner, Mapping) else None
    if not isinstance(inner, Mapping) or not isinstance(name, str) or not name:
        raise DataError("tool call: an object with 'name' and 'arguments' was expected")
    arguments = inner.get("arguments", inner.get("parameters", {}))
    if isinstance(arguments, str):  # OpenAI sends arguments as JSON text
        try:
            arguments = parse_json(arguments, _ARGUMENTS)
        except JsonError as error:
            raise DataError(f"tool call '{name}': the text of its arguments {error}") from None
    if not isinstance(arguments, Mapping):
        raise DataError(f"tool call '{name}': arguments must be an object")
    id = data.get("id")
    if not isinstance(id, str | int | None):
        raise DataError(f"tool call '{name}': its id is {type(id).__name__}; text was expected")
    return ToolCall(name, plain(f"arguments of '{name}'", arguments), None if id is None else str(id))


def plain(name: str, value: Any, depth: int = 0) -> Any:
    """A copy of a value made of plain JSON types, as templates get them; dates and the like become text.

    Errors: `DataError`, naming `name`, for a value nested deeper than `MAX_DEPTH`.
    """
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if depth >= MAX_DEPTH:
        raise DataError(f"message: {name} is nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, Mapping):
        return {str(key): plain(name, item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(name, item, depth + 1) for item in value]
    return str(value)
