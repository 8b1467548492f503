"""The turns of a Messages request as chat messages, and places in these as places in the request."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Sequence
from hashlib import sha256
from typing import Any

from coterie.api.anthropic.bodies import (
    InputMessage,
    OtherBlock,
    RedactedThinking,
    SystemBlock,
    TextBlock,
    ThinkingBlock,
    ToolReference,
    ToolResult,
    ToolUse,
)
from coterie.hosting.errors import invalid
from coterie.protocol.fields import Ignored

_BETWEEN_TURNS = "\n\n"  # turns of one role that follow each other are one turn
_CARRIES = "carried:"  # the start of a signature that holds the reasoning itself
_ROLES = {ThinkingBlock: "assistant", RedactedThinking: "assistant", ToolUse: "assistant", ToolResult: "user"}


class TurnReader:
    """Turns read into `messages` of the chat API.

    `origins`: the place of each message in the request, and the places of its calls.
    """

    def __init__(self, ignored: Ignored) -> None:
        self.messages: list[dict[str, Any]] = []
        self.origins: list[tuple[str, list[str]]] = []
        self._ignored = ignored
        self._names: dict[str, str] = {}  # of tools, by the id of their call

    def read(self, system: str | Sequence[SystemBlock] | None, turns: Sequence[InputMessage]) -> None:
        """Errors: `ApiError` 400 for a block that its role cannot have."""
        text = system if isinstance(system, str) else "".join(block.text for block in system or ())
        if text:
            self._add("/system", {"role": "system", "content": text})
        last_user = max((index for index, turn in enumerate(turns) if turn.role == "user"), default=-1)
        for index, turn in enumerate(turns):
            if turn.clear_at != "next_user_message" or index > last_user:
                self._turn(turn, f"/messages/{index}")

    def translated(self, text: str) -> str:
        """`text` with the places of the request in place of those in the chat messages."""

        def place(found: re.Match[str]) -> str:
            origin, calls = self.origins[int(found[1])]
            return calls[int(found[2])] + "/input" if found[2] else origin

        return re.sub(r"/messages/(\d+)(?:/tool_calls/(\d+)(?:/function/arguments)?)?", place, text)

    def _turn(self, turn: InputMessage, where: str) -> None:
        if isinstance(turn.content, str):
            return self._add(where, {"role": turn.role, "content": turn.content})
        texts: list[str] = []
        thoughts: list[str] = []
        calls: list[dict[str, Any]] = []
        places: list[str] = []
        for number, block in enumerate(turn.content):
            here = f"{where}/content/{number}"
            role = _ROLES.get(type(block))
            if role not in (None, turn.role):
                raise invalid(f"{here}/type: only the {role} can send such a block", f"{here}/type")
            if isinstance(block, TextBlock):
                texts.append(block.text)
            elif isinstance(block, ThinkingBlock):
                thoughts.append(block.thinking or carried(block.signature))
            elif isinstance(block, RedactedThinking):
                self._ignored.add("messages.content", "redacted_thinking")
            elif isinstance(block, ToolUse):
                self._names[block.id] = block.name
                function = {"name": block.name, "arguments": json.dumps(block.input, ensure_ascii=False)}
                calls.append({"id": block.id, "type": "function", "function": function})
                places.append(here)
            elif isinstance(block, ToolResult):
                self._result(block, here)  # results come before the text of their turn
        message: dict[str, Any] = {"role": turn.role, "content": "".join(texts)}
        if any(thoughts):
            message["reasoning_content"] = "\n".join(filter(None, thoughts))
        if calls:
            message["tool_calls"] = calls
        only_results = turn.content and all(isinstance(block, ToolResult) for block in turn.content)
        if not only_results:
            self._add(where, message, places)

    def _result(self, block: ToolResult, where: str) -> None:
        text = block.content if isinstance(block.content, str) else "".join(map(_shown, block.content))
        if block.is_error:
            text = f"Error: {text}" if text else "Error"
        tool = {"name": self._names[block.tool_use_id]} if block.tool_use_id in self._names else {}
        message = {"role": "tool", "content": text, "tool_call_id": block.tool_use_id, **tool}
        self.messages.append(message)
        self.origins.append((where, []))

    def _add(self, where: str, message: dict[str, Any], calls: Sequence[str] = ()) -> None:
        """Append a message, or add it to the last one when that has the same role."""
        last: dict[str, Any] = self.messages[-1] if self.messages else {"role": None}
        if last["role"] != message["role"] or where == "/system" or self.origins[-1][0] == "/system":
            self.messages.append(message)
            self.origins.append((where, list(calls)))
            return
        last["content"] = _BETWEEN_TURNS.join(filter(None, (last["content"], message["content"])))
        thoughts = [one["reasoning_content"] for one in (last, message) if "reasoning_content" in one]
        if thoughts:
            last["reasoning_content"] = "\n".join(thoughts)
        if calls:
            last["tool_calls"] = [*last.get("tool_calls", ()), *message["tool_calls"]]
            self.origins[-1][1].extend(calls)


def _shown(block: TextBlock | ToolReference | OtherBlock) -> str:
    """The text of a part of a result. Tools that a search found are in the prompt already."""
    return block.text if isinstance(block, TextBlock) else getattr(block, "tool_name", "")


def signature(reasoning: str, carry: bool) -> str:
    """What a client sends back with reasoning; with `carry` it holds the reasoning, which is not shown."""
    if carry:
        return base64.b64encode((_CARRIES + reasoning).encode()).decode()
    return base64.b64encode(sha256(reasoning.encode()).digest()).decode()


def carried(given: str) -> str:
    """The reasoning in a signature of ours; "" where it holds none, or is another server's."""
    try:
        text = base64.b64decode(given, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError, ValueError):
        return ""
    return text.removeprefix(_CARRIES) if text.startswith(_CARRIES) else ""
