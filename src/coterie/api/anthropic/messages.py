"""`POST /v1/messages` and `/v1/messages/count_tokens`."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from coterie.api.anthropic.bodies import CountRequest, MessagesRequest
from coterie.api.anthropic.events import BlockEvent, Blocks, fold
from coterie.api.anthropic.translate import Translation
from coterie.hosting.errors import ApiError, ContextExceeded
from coterie.protocol.conversation import Conversation, prepare, reported
from coterie.protocol.received import Received, receive, respond
from coterie.protocol.replies import ChoiceStep, Replies
from coterie.protocol.wire import JsonAnswer, encode


async def messages(request: Request) -> Response:
    """Answer, whole or as events."""
    received = await receive(request, MessagesRequest)
    run = _MessageRun(await received.prepared(request, lambda: _Prepared(received)))
    return await respond(request, received, run.call, run.stream, run.whole, run.ignored)


async def count_tokens(request: Request) -> Response:
    """How many tokens the prompt of a conversation has, also when it is too long for the model."""
    received = await receive(request, CountRequest)
    service, body = received.service, received.body

    def counted() -> tuple[int, list[str]]:
        # Neither a call that is asked for nor a form of the answer changes the prompt.
        hides = body.tool_choice is not None and body.tool_choice.type == "none"
        config = body.output_config and body.output_config.model_copy(update={"format": None})
        bare = {"tool_choice": body.tool_choice if hides else None, "output_config": config}
        prompt = body.model_copy(update={**bare, "output_format": None})
        translation = Translation(service, prompt, received.ignored)
        try:
            talk = prepare(service, translation.chat, received.variant)
        except ContextExceeded as error:
            return error.num_tokens, translation.ignored
        except ApiError as error:
            raise translation.translated(error) from None
        return len(talk.prompt), [*translation.ignored, *translation.names(talk.ignored)]

    number, ignored = await received.prepared(request, counted)
    return JsonAnswer({"input_tokens": number}, headers=received.headers(ignored))


class _Prepared:
    """A request ready for the engine.

    `place`: rewrites places in the chat request as those in this one.
    `clamped`: its `max_tokens` are more than the context has room for after the prompt, so that the reply may
    end with the context. `ignored`: fields without effect besides those that the body named.
    """

    def __init__(self, received: Received[MessagesRequest]) -> None:
        self.received, service, body = received, received.service, received.body
        translation = Translation(service, body, received.ignored)
        try:
            talk = prepare(service, translation.chat, received.variant)
        except ApiError as error:
            raise translation.translated(error) from None
        left = service.max_length - len(talk.prompt)
        most = min(body.max_tokens, left)
        jobs = [replace(job, params=replace(job.params, max_tokens=most)) for job in talk.jobs]
        self.talk: Conversation = replace(talk, jobs=jobs)
        self.cached, self.place = translation.cached, translation.place
        self.clamped = body.max_tokens > left
        self.ignored = [*translation.ignored, *translation.names(talk.ignored)]
        if self.clamped:
            self.ignored += reported(["max_tokens"], service.settings.strict)


class _MessageRun:
    """A running request."""

    def __init__(self, ready: _Prepared) -> None:
        received = ready.received
        self.call = received.service.thread.submit(ready.talk.jobs)
        self.ignored = ready.ignored
        self._replies = Replies(received.service, ready.talk, self.call)
        self._body, self._ready, self._last = received.body, ready, received.last(ready.ignored)
        self._blocks = Blocks(received.body.thinking is not None and received.body.thinking.hidden)
        self._id = "msg_" + secrets.token_hex(12)
        self._begun = False
        self._finish: str | None = None
        self._stop: str | None = None
        self._more: dict[str, Any] = {}  # fields of ours

    async def whole(self) -> dict[str, Any]:
        """The plain answer: what the events add up to."""
        return fold([event async for event in self._events()])

    async def stream(self) -> AsyncGenerator[bytes, None]:
        """The events as they come."""
        async for event in self._events():
            yield _bytes({**event, **self._last} if event["type"] == "message_delta" else event)

    async def _events(self) -> AsyncGenerator[BlockEvent, None]:
        async with aclosing(self._replies.steps()) as batches:
            async for steps in batches:
                for event in self._grown(steps):
                    yield event
        for event in (*self._blocks.close(), self._end(), {"type": "message_stop"}):
            yield event

    def _grown(self, steps: Sequence[ChoiceStep]) -> Iterator[BlockEvent]:
        """The events of new steps."""
        if not self._begun:  # only now is it known how much of the prompt was read before
            self._begun = True
            yield {"type": "message_start", "message": self._start()}
            yield {"type": "ping"}
        for step in steps:
            self._note(step)
            yield from self._blocks.add(step.delta)

    def _note(self, step: ChoiceStep) -> None:
        self._finish, self._stop = step.finish or self._finish, step.stop or self._stop
        if step.moe is not None:
            tokens = self._more.get("moe", {"tokens": []})["tokens"]
            self._more["moe"] = {**step.moe, "tokens": tokens + step.moe["tokens"]}
        if step.schema is not None:
            self._more["x_coterie_schema"] = self._ready.place(step.schema)

    def _end(self) -> BlockEvent:
        if self._finish == "length":
            reason = "model_context_window_exceeded" if self._ready.clamped else "max_tokens"
        elif self._finish == "tool_calls":
            reason = "tool_use"
        else:
            reason = "stop_sequence" if self._stop in (self._body.stop_sequences or ()) else "end_turn"
        ended = {"stop_reason": reason, "stop_sequence": self._stop if reason == "stop_sequence" else None}
        return {"type": "message_delta", "delta": ended, "usage": self._usage(), **self._more}

    def _start(self) -> dict[str, Any]:
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._body.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": self._usage(),
        }

    def _usage(self) -> dict[str, Any]:
        """Counts; tokens read before are apart where the request marked places for a cache."""
        usage = self._replies.usage
        cached = usage.cached if self._ready.cached else 0
        return {
            "input_tokens": usage.prompt - cached,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": cached,
            "output_tokens": usage.completion,
            "output_tokens_details": {"thinking_tokens": usage.reasoning},
        }


def _bytes(event: BlockEvent) -> bytes:
    return b"event: " + event["type"].encode() + b"\ndata: " + encode(event) + b"\n\n"
