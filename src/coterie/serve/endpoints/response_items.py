"""Items of the Responses API: a request's input as chat messages, and a reply as items with their events."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from coterie.serve.endpoints.replies import call_object
from coterie.serve.errors import invalid
from coterie.text.replies import Delta, NumberedCall

ResponseEvent = tuple[str, dict[str, Any]]


def messages_of(given: str | Sequence[Mapping[str, Any]], instructions: str | None) -> list[dict[str, Any]]:
    """The input as chat messages. Errors: `ApiError` 400 with a pointer for items of an unknown type."""
    messages: list[dict[str, Any]] = [{"role": "system", "content": instructions}] if instructions else []
    if isinstance(given, str):
        return [*messages, {"role": "user", "content": given}]
    names: dict[str, str] = {}
    for index, item in enumerate(given):
        pointer = f"/input/{index}"
        kind = item.get("type", "message")
        if kind == "message":
            role = _text_of(item, "role", pointer)
            if role == "assistant" and messages and messages[-1].get("open"):
                messages[-1]["content"] = _content(item, pointer)
                continue
            messages.append({"role": role, "content": _content(item, pointer)})
        elif kind == "reasoning":
            parts = item.get("content") or item.get("summary") or []
            text = "".join(part.get("text", "") for part in parts if isinstance(part, Mapping))
            if text:
                messages.append({"role": "assistant", "content": "", "reasoning_content": text, "open": True})
        elif kind == "function_call":
            name, call_id = _text_of(item, "name", pointer), _text_of(item, "call_id", pointer)
            names[call_id] = name
            call = {
                "id": call_id,
                "type": "function",
                "function": {"name": name, "arguments": _text_of(item, "arguments", pointer)},
            }
            if not messages or messages[-1]["role"] != "assistant":
                messages.append({"role": "assistant", "content": ""})
            messages[-1].setdefault("tool_calls", []).append(call)
        elif kind == "function_call_output":
            call_id = _text_of(item, "call_id", pointer)
            content = _content({"content": item.get("output")}, pointer)
            tool = {"name": names[call_id]} if call_id in names else {}
            messages.append({"role": "tool", "content": content, "tool_call_id": call_id, **tool})
        else:
            raise invalid(
                f"{pointer}/type: items of type {str(kind)[:40]!r} are not read here", f"{pointer}/type"
            )
    for message in messages:
        message.pop("open", None)
    return messages


def _text_of(item: Mapping[str, Any], key: str, pointer: str) -> str:
    value = item.get(key)
    if not isinstance(value, str):
        raise invalid(f"{pointer}/{key}: text was expected", f"{pointer}/{key}")
    return value


def _content(item: Mapping[str, Any], pointer: str) -> Any:
    """Text, or parts reduced to type and text; other parts are left unchanged and refused later."""
    content = item.get("content")
    if not isinstance(content, list):
        return content
    return [
        {"type": part["type"], "text": part["text"]}
        if isinstance(part, Mapping) and isinstance(part.get("text"), str) and "type" in part
        else part
        for part in content
    ]


class Output:
    """Builds the output items of one response from deltas, and yields the events for each change."""

    def __init__(self) -> None:
        self.items: list[dict[str, Any]] = []
        self._open: str | None = None

    def add(self, delta: Delta, logprobs: list[dict[str, Any]] | None) -> Iterator[ResponseEvent]:
        """The events of newly written text and calls."""
        if delta.reasoning:
            yield from self._text("reasoning", delta.reasoning, None)
        if delta.content:
            yield from self._text("message", delta.content, logprobs)
        for call in delta.calls:
            yield from self.close()
            yield from self._call(call)

    def _text(self, kind: str, text: str, logprobs: list[dict[str, Any]] | None) -> Iterator[ResponseEvent]:
        if self._open != kind:
            yield from self.close()
            yield from self._begin(kind)
        item = self.items[-1]
        item["content"][0]["text"] += text
        where = {**self._place(), "delta": text}
        if kind == "message":
            item["content"][0]["logprobs"] += logprobs or []
            yield "response.output_text.delta", {**where, "logprobs": logprobs or []}
        else:
            yield "response.reasoning_text.delta", where

    def _begin(self, kind: str) -> Iterator[ResponseEvent]:
        self._open = kind
        if kind == "message":
            item: dict[str, Any] = {"type": "message", "id": _new("msg"), "role": "assistant"}
            part: dict[str, Any] = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        else:
            item = {"type": "reasoning", "id": _new("rs"), "summary": []}
            part = {"type": "reasoning_text", "text": ""}
        item |= {"status": "in_progress", "content": []}
        self.items.append(item)
        place = {"output_index": len(self.items) - 1}
        yield "response.output_item.added", {**place, "item": {**item, "content": []}}
        item["content"] = [part]
        yield "response.content_part.added", {**self._place(), "part": dict(part)}

    def _place(self) -> dict[str, Any]:
        """Fields by which an event names the content of the last item."""
        return {"item_id": self.items[-1]["id"], "output_index": len(self.items) - 1, "content_index": 0}

    def close(self) -> Iterator[ResponseEvent]:
        """Complete the open item."""
        if self._open is None:
            return
        kind, self._open = self._open, None
        item = self.items[-1]
        item["status"] = "completed"
        part = item["content"][0]
        where = self._place()
        if kind == "message":
            yield "response.output_text.done", {**where, "text": part["text"], "logprobs": part["logprobs"]}
        else:
            yield "response.reasoning_text.done", {**where, "text": part["text"]}
        yield "response.content_part.done", {**where, "part": part}
        yield "response.output_item.done", {"output_index": where["output_index"], "item": item}

    def _call(self, call: NumberedCall) -> Iterator[ResponseEvent]:
        function = call_object(call)["function"]
        item = {
            "type": "function_call",
            "id": _new("fc"),
            "call_id": call.id,
            "name": function["name"],
            "arguments": "",
            "status": "in_progress",
        }
        self.items.append(item)
        place = {"output_index": len(self.items) - 1}
        yield "response.output_item.added", {**place, "item": dict(item)}
        item |= {"arguments": function["arguments"], "status": "completed"}
        where = {**place, "item_id": item["id"]}
        yield "response.function_call_arguments.delta", {**where, "delta": item["arguments"]}
        yield (
            "response.function_call_arguments.done",
            {**where, "arguments": item["arguments"], "name": item["name"]},
        )
        yield "response.output_item.done", {**place, "item": item}


def _new(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(12)}"
