"""Items of the Responses API: a request's input as chat messages, and a reply as items with their events."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from coterie.api.openai.text_scores import TextScores
from coterie.hosting.errors import invalid
from coterie.protocol.body import pointer_to, sifted
from coterie.protocol.field_table import ITEMS
from coterie.protocol.fields import Ignored
from coterie.protocol.replies import ChoiceStep
from coterie.text.replies import CallPart, NumberedCall

ResponseEvent = tuple[str, dict[str, Any]]


# Fields of an item that are read, by its type; `field_table` lists those that are accepted besides.
_READ = {
    "message": ("type", "role", "content"),
    "reasoning": ("type", "content", "summary"),
    "function_call": ("type", "call_id", "name", "arguments"),
    "function_call_output": ("type", "call_id", "output"),
    "custom_tool_call": ("type", "call_id", "name", "input"),
    "custom_tool_call_output": ("type", "call_id", "output"),
}
# Of calls: the field with their text, and the name of its events.
_TEXT_OF = {"function_call": "arguments", "custom_tool_call": "input"}
_EVENTS = {"function_call": "function_call_arguments", "custom_tool_call": "custom_tool_call_input"}
_TEXTS = ("text", "input_text", "output_text")


class ItemReader:
    """The input of a request as chat messages.

    `ignored`: fields without effect. `origins`: for each message the items that it came from: the one that
    holds its role or content, then one for each of its calls. `tools`: the places of the functions among the
    request's tools.
    """

    def __init__(self, strict: bool = False) -> None:
        self.messages: list[dict[str, Any]] = []
        self.ignored = Ignored(strict=strict)
        self.origins: list[list[int]] = []
        self.tools: list[int] = []
        self._names: dict[str, str] = {}  # of functions, by the id of their call
        self._open = False  # the last message holds only reasoning so far

    def read(self, given: Sequence[tuple[int, Mapping[str, Any]]], instructions: str | None) -> None:
        """Read items with their places in the request; below 0 they are stored ones, read before.

        Errors: `ApiError` 400 with a pointer, for an unknown type of item or field.
        """
        if instructions:
            self._add(0, {"role": "system", "content": instructions})
        asked = self.ignored
        for index, item in given:
            kind = item.get("type") or "message"
            if not isinstance(kind, str) or kind not in _READ:
                pointer = f"/input/{index}/type"
                needs = ITEMS.get(str(kind))
                reason = f" ({needs} would be needed)" if needs else ""
                raise invalid(
                    f"{pointer}: items of type {str(kind)[:40]!r} are not read here{reason}", pointer
                )
            self.ignored = Ignored() if index < 0 else asked
            left = sifted(f"input.{kind}", item, _READ[kind], self.ignored, ["input", index])
            getattr(self, f"_{kind}")(left, index)
        self.ignored = asked

    def placed(self, text: str) -> str:
        """A text with the places of a chat request, as the places in this request that they came from."""

        def place(found: re.Match[str]) -> str:
            number = int(found[1])
            origin = self.origins[number] if number < len(self.origins) else []
            if not origin:
                return found[0]
            if found[2] is None:
                return f"/input/{origin[0]}"
            return f"/input/{origin[1 + int(found[2])]}" if len(origin) > 1 + int(found[2]) else found[0]

        def tool(found: re.Match[str]) -> str:
            number = int(found[1])
            return f"tools/{self.tools[number]}" if number < len(self.tools) else found[0]

        text = re.sub(r"/messages/(\d+)(?:/tool_calls/(\d+)(?:/function)?)?", place, text)
        text = re.sub(r"(?<!allowed_tools/)\btools/(\d{1,3})(?:/(?:function|custom))?", tool, text)
        text = text.replace("/format/grammar", "/format")
        text = re.sub(
            r"\bresponse_format(/json_schema)?", "text/format" if "/" in text else "text.format", text
        )
        text = text.replace("/tool_choice/allowed_tools", "/tool_choice")
        return text.replace("/messages", "/input").replace("/function", "")

    def _add(self, index: int, message: dict[str, Any]) -> None:
        self.messages.append(message)
        self.origins.append([index])
        self._open = False

    def _message(self, item: Mapping[str, Any], index: int) -> None:
        role = _text_of(item, "role", f"/input/{index}")
        content = self._content(item.get("content"), [index, "content"])
        if role == "assistant" and self._open:
            self.messages[-1]["content"], self._open = content, False
        else:
            self._add(index, {"role": role, "content": content})

    def _reasoning(self, item: Mapping[str, Any], index: int) -> None:
        parts = item.get("content") or item.get("summary") or []
        if not isinstance(parts, list):
            raise invalid(f"/input/{index}: a list of parts was expected", f"/input/{index}")
        found = [part.get("text") for part in parts if isinstance(part, Mapping)]
        text = "".join(one for one in found if isinstance(one, str))
        if text:
            self._add(index, {"role": "assistant", "content": "", "reasoning_content": text})
            self._open = True

    def _function_call(self, item: Mapping[str, Any], index: int) -> None:
        name, call_id = (_text_of(item, key, f"/input/{index}") for key in ("name", "call_id"))
        self._names[call_id] = name
        function = {"name": name, "arguments": _text_of(item, "arguments", f"/input/{index}")}
        self._called(index, {"id": call_id, "type": "function", "function": function})

    def _custom_tool_call(self, item: Mapping[str, Any], index: int) -> None:
        name, call_id, text = (_text_of(item, key, f"/input/{index}") for key in ("name", "call_id", "input"))
        self._names[call_id] = name
        self._called(index, {"id": call_id, "type": "custom", "custom": {"name": name, "input": text}})

    def _custom_tool_call_output(self, item: Mapping[str, Any], index: int) -> None:
        self._function_call_output(item, index)

    def _called(self, index: int, call: dict[str, Any]) -> None:
        if not self.messages or self.messages[-1]["role"] != "assistant":
            self._add(index, {"role": "assistant", "content": ""})
        self.messages[-1].setdefault("tool_calls", []).append(call)
        self.origins[-1].append(index)

    def _function_call_output(self, item: Mapping[str, Any], index: int) -> None:
        call_id = _text_of(item, "call_id", f"/input/{index}")
        content = self._content(item.get("output"), [index, "output"])
        tool = {"name": self._names[call_id]} if call_id in self._names else {}
        self._add(index, {"role": "tool", "content": content, "tool_call_id": call_id, **tool})

    def _content(self, content: Any, path: list[int | str]) -> Any:
        """The text of parts, as if it had been sent as one; parts of other types as they are."""
        if not isinstance(content, list):
            return content
        place, read = "input.message.content", ("type", "text")
        parts = []
        for number, part in enumerate(content):
            if not isinstance(part, Mapping):
                pointer = pointer_to(["input", *path, number])
                raise invalid(f"{pointer}: an object was expected", pointer)
            parts.append(sifted(place, part, read, self.ignored, ["input", *path, number]))
        texts = [part.get("text") for part in parts if part.get("type") in _TEXTS]
        whole = [text for text in texts if isinstance(text, str)]
        return "".join(whole) if len(whole) == len(parts) else parts


def _text_of(item: Mapping[str, Any], key: str, pointer: str) -> str:
    value = item.get(key)
    if not isinstance(value, str):
        raise invalid(f"{pointer}/{key}: text was expected", f"{pointer}/{key}")
    return value


class Output:
    """Builds the output items of one response from deltas, and yields the events for each change."""

    def __init__(self) -> None:
        self.items: list[dict[str, Any]] = []
        self._open: str | None = None
        self._scores = TextScores()

    def add(self, step: ChoiceStep) -> Iterator[ResponseEvent]:
        """The events of newly written text and calls."""
        self._scores.hold(step.written, step.logprobs)
        for kind, new in step.delta.in_order(self._open == "call"):
            if kind == "content":
                scores = self._scores.of(new, begins=self._open != "message")
                yield from self._text("message", new, scores)
                continue
            self._scores.forget()
            if kind == "call":
                yield from self._call(*new)
            else:
                yield from self._text("reasoning", new, [])

    def _text(self, kind: str, text: str, logprobs: list[dict[str, Any]]) -> Iterator[ResponseEvent]:
        if self._open != kind:
            yield from self.close()
            yield from self._begin(kind)
        item = self.items[-1]
        item["content"][0]["text"] += text
        where = {**self._place(), "delta": text}
        if kind == "message":
            item["content"][0]["logprobs"] += logprobs
            yield "response.output_text.delta", {**where, "logprobs": logprobs}
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

    def close(self, cut: bool = False) -> Iterator[ResponseEvent]:
        """Complete the open item. `cut`: the reply was too long to be completed."""
        if self._open is None:
            return
        kind, self._open = self._open, None
        item = self.items[-1]
        item["status"] = "incomplete" if cut else "completed"
        part = item["content"][0]
        where = self._place()
        if kind == "message":
            yield "response.output_text.done", {**where, "text": part["text"], "logprobs": part["logprobs"]}
        else:
            yield "response.reasoning_text.done", {**where, "text": part["text"]}
        yield "response.content_part.done", {**where, "part": part}
        yield "response.output_item.done", {"output_index": where["output_index"], "item": item}

    def _call(self, part: CallPart | None, ended: NumberedCall | None) -> Iterator[ResponseEvent]:
        if part is not None:
            yield from self._part(part)
        if ended is not None:
            yield from self._end(ended)

    def _part(self, part: CallPart) -> Iterator[ResponseEvent]:
        if part.name is not None:
            yield from self.close()
            kind, prefix = ("custom_tool_call", "ctc") if part.custom else ("function_call", "fc")
            item: dict[str, Any] = {"type": kind, "id": _new(prefix), "call_id": part.id}
            item |= {"name": part.name, _TEXT_OF[kind]: "", "status": "in_progress"}
            self.items.append(item)
            self._open = "call"
            yield "response.output_item.added", {"output_index": len(self.items) - 1, "item": dict(item)}
        if part.arguments:
            item = self.items[-1]
            item[_TEXT_OF[item["type"]]] += part.arguments
            where = {"output_index": len(self.items) - 1, "item_id": item["id"]}
            yield f"response.{_EVENTS[item['type']]}.delta", {**where, "delta": part.arguments}

    def _end(self, call: NumberedCall) -> Iterator[ResponseEvent]:
        """Complete the open call."""
        self._open, item = None, self.items[-1]
        item["status"] = "incomplete" if call.broken else "completed"
        place = {"output_index": len(self.items) - 1}
        text = _TEXT_OF[item["type"]]
        named = {} if call.custom else {"name": item["name"]}
        done = {**place, "item_id": item["id"], text: item[text], **named}
        yield f"response.{_EVENTS[item['type']]}.done", done
        yield "response.output_item.done", {**place, "item": item}


def _new(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(12)}"
