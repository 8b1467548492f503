"""What a conversation is made of: messages and the calls of tools inside them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from coterie.config.errors import DataError

ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True)
class ToolCall:
    """One call of a tool by the assistant; `arguments` is a JSON object."""

    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class Message:
    """One turn. `reasoning` and `tool_calls` belong to assistants; `name` is the tool's for role `tool`."""

    role: str
    content: str = ""
    reasoning: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    name: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The form that Hugging Face chat templates read."""
        data: dict[str, Any] = {"role": self.role, "content": self.content}
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
        """Read the OpenAI / Hugging Face form. Errors: `DataError` naming the field."""
        role, content = data.get("role"), data.get("content")
        if role not in ROLES:
            raise DataError(f"message: role {role!r} is not one of {', '.join(ROLES)}")
        if content is not None and not isinstance(content, str):
            raise DataError(f"message: content is {type(content).__name__}; text was expected")
        reasoning = data.get("reasoning_content", data.get("reasoning"))
        if reasoning is not None and not isinstance(reasoning, str):
            raise DataError(f"message: reasoning is {type(reasoning).__name__}; text was expected")
        given = data.get("tool_calls") or ()
        if not isinstance(given, list | tuple):
            raise DataError(f"message: tool_calls is {type(given).__name__}; a list was expected")
        calls = tuple(read_call(call) for call in given)
        if role != "assistant" and (calls or reasoning is not None):
            raise DataError(f"message: only an assistant has reasoning or tool calls, not role '{role}'")
        if not content and not calls and content is None:
            raise DataError(f"message: role '{role}' has neither content nor tool calls")
        return Message(role, content or "", reasoning, calls, data.get("name"))


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
