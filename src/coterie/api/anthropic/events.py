"""A reply as content blocks: the events that build them, and the whole message that events add up to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from pydantic_core import from_json

from coterie.api.anthropic.turns import signature
from coterie.text.call_readers import call_of
from coterie.text.replies import CallPart, Delta, NumberedCall

BlockEvent = dict[str, Any]  # its `type` is also the event's name


class Blocks:
    """Turns the steps of one reply into events of content blocks, one block at a time.

    `hide`: reasoning is not shown; its signature carries it.
    """

    def __init__(self, hide: bool = False) -> None:
        self._hide = hide
        self._count = 0
        self._open: str | None = None
        self._reasoning = ""

    def add(self, delta: Delta) -> Iterator[BlockEvent]:
        """The events of newly written text and calls."""
        for kind, new in delta.in_order(self._open == "tool_use"):
            if kind == "call":
                yield from self._call(*new)
            elif kind == "content":
                yield from self._begin("text", {"text": ""})
                yield self._delta({"type": "text_delta", "text": new})
            else:
                yield from self._begin("thinking", {"thinking": "", "signature": ""})
                self._reasoning += new
                if not self._hide:
                    yield self._delta({"type": "thinking_delta", "thinking": new})

    def close(self) -> Iterator[BlockEvent]:
        """End the open block."""
        if self._open == "thinking":
            signed = signature(self._reasoning, self._hide)
            yield self._delta({"type": "signature_delta", "signature": signed})
            self._reasoning = ""
        if self._open is not None:
            yield {"type": "content_block_stop", "index": self._count - 1}
        self._open = None

    def _begin(self, kind: str, empty: dict[str, Any]) -> Iterator[BlockEvent]:
        if self._open == kind:
            return
        yield from self.close()
        self._open, self._count = kind, self._count + 1
        yield {
            "type": "content_block_start",
            "index": self._count - 1,
            "content_block": {"type": kind, **empty},
        }

    def _delta(self, delta: dict[str, Any]) -> BlockEvent:
        return {"type": "content_block_delta", "index": self._count - 1, "delta": delta}

    def _call(self, part: CallPart | None, ended: NumberedCall | None) -> Iterator[BlockEvent]:
        if part is not None and part.name is not None:
            yield from self.close()
            yield from self._begin("tool_use", {"id": part.id, "name": part.name, "input": {}})
        if part is not None and part.arguments:
            yield self._delta({"type": "input_json_delta", "partial_json": part.arguments})
        if ended is not None:
            yield from self.close()


def fold(events: Iterable[BlockEvent]) -> dict[str, Any]:
    """The message that the events of a stream add up to; a call that was cut off has the arguments so far."""
    message: dict[str, Any] = {}
    written = ""  # the arguments of the open call
    for event in events:
        kind = event["type"]
        if kind == "message_start":
            message = dict(event["message"])
            message["content"] = []
        elif kind == "content_block_start":
            message["content"].append(dict(event["content_block"]))
            written = ""
        elif kind == "content_block_delta":
            block, delta = message["content"][-1], event["delta"]
            if delta["type"] == "input_json_delta":
                written += delta["partial_json"]
            else:
                field = delta["type"].removesuffix("_delta")
                block[field] += delta[field]
        elif kind == "content_block_stop" and message["content"][-1]["type"] == "tool_use":
            call = call_of(message["content"][-1]["name"], written)
            message["content"][-1]["input"] = _so_far(written) if call is None else dict(call.arguments)
        elif kind == "message_delta":
            message |= {**event["delta"], **{name: event[name] for name in event.keys() - {"type", "delta"}}}
    return message


def _so_far(written: str) -> dict[str, Any]:
    """The arguments in a text that was cut off, as Anthropic's clients read it: without the last, if open."""
    try:
        found = from_json(written, allow_partial=True)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
