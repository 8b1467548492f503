"""`POST /v1/responses` and `/v1/responses/input_tokens`."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from coterie.api.openai.memory import ItemMemory, new_id
from coterie.api.openai.response_bodies import ConversationName, InputRequest, ResponsesRequest, TextFormat
from coterie.api.openai.response_items import ItemReader, Output, ResponseEvent
from coterie.api.openai.response_object import LABELS, asked, outcome
from coterie.api.openai.truncation import fitted
from coterie.hosting.errors import ApiError, unsupported
from coterie.hosting.keys import owner
from coterie.hosting.service import Service
from coterie.protocol.conversation import Conversation, prepare
from coterie.protocol.received import Received, receive, respond
from coterie.protocol.replies import Replies
from coterie.protocol.requests import ChatRequest
from coterie.protocol.translation import chat_request
from coterie.protocol.wire import JsonAnswer, encode

_LOGPROBS = "message.output_text.logprobs"  # of `include`
_ROOM = 8  # the part of the context that `truncation` keeps for a reply of no given length


async def responses(request: Request) -> Response:
    """Answer, whole or as typed events."""
    received = await receive(request, ResponsesRequest)
    service, body = received.service, received.body
    memory = ItemMemory(received.host.state, owner(), body.store)
    await _load(memory, body)
    ready = await received.prepared(request, lambda: _prepared(service, body, received.variant, memory))
    if body.store and not memory.keeps:
        ready.ignored.append("store")
    replies = Replies(service, ready.talk, service.thread.submit(ready.talk.jobs))
    run = _Run(replies, received, ready, memory)
    return await respond(request, received, replies.call, run.stream, run.whole, ready.ignored, run.failed)


async def input_tokens(request: Request) -> Response:
    """How many tokens the prompt of a response would have; nothing is generated or kept."""
    received = await receive(request, InputRequest)
    service, body = received.service, received.body
    memory = ItemMemory(received.host.state, owner())
    await _load(memory, body)
    ready = await received.prepared(request, lambda: _prepared(service, body, received.variant, memory))
    counted = {"object": "response.input_tokens", "input_tokens": len(ready.talk.prompt)}
    return JsonAnswer(counted, headers=received.headers(ready.ignored))


async def _load(memory: ItemMemory, body: InputRequest) -> None:
    named = body.conversation
    conversation = named.id if isinstance(named, ConversationName) else named
    await memory.load(body.input or [], body.previous_response_id, conversation)


@dataclass(frozen=True)
class _Ready:
    """A conversation, the fields without effect, and the ids of items that `truncation` left out."""

    talk: Conversation
    ignored: list[str]
    items: ItemReader
    left_out: list[str] = field(default_factory=list)


def _prepared(service: Service, body: InputRequest, variant: str, memory: ItemMemory) -> _Ready:
    """Errors: `ApiError` 400 with a place in `input`."""

    def attempt(given: Sequence[tuple[int, Mapping[str, Any]]]) -> _Ready:
        items = ItemReader(service.settings.strict)
        try:
            chat, ignored = as_chat(body, items, given)
            try:
                talk = prepare(service, chat, variant)
            except ApiError as error:
                raise error.moved(items.placed) from None
        except ApiError as error:
            raise memory.placed(error) from None
        return _Ready(talk, [*ignored, *map(items.placed, talk.ignored)], items)

    if body.truncation != "auto":
        return attempt(memory.items)
    room = getattr(body, "max_output_tokens", None) or service.max_length // _ROOM
    made, left_out = fitted(
        memory.items, attempt, lambda made: len(made.talk.prompt) + room <= service.max_length
    )
    if not left_out:
        return made
    names = [*made.ignored, f"input.oldest:{len(left_out)}"]
    return replace(made, ignored=names, left_out=left_out)


def as_chat(
    body: InputRequest, items: ItemReader, given: Sequence[tuple[int, Mapping[str, Any]]]
) -> tuple[ChatRequest, list[str]]:
    """The same request in the chat API, and the fields without effect. Errors: `ApiError` 400.

    `given`: the items that the prompt is made of, with their places in the request.
    """
    functions, ignored = [], items.ignored
    for name in LABELS:
        if getattr(body, name, None):
            ignored.add("", name)
    items.read(given, body.instructions)
    for index, tool in enumerate(body.tools or ()):
        # A built-in tool of other servers, which clients send to every server.
        if tool.get("type") not in ("function", "custom"):
            ignored.add("", f"tools/{index}")
            continue
        items.tools.append(index)
        functions.append(_nested(tool))
    include = getattr(body, "include", None) or []
    for name in include:
        if name != _LOGPROBS:
            ignored.add("", f"include:{name}")
    if body.text is not None and body.text.verbosity is not None:
        ignored.add("text", "verbosity")
    if body.reasoning is not None and (body.reasoning.summary or body.reasoning.generate_summary):
        ignored.add("reasoning", "summary")
    data: dict[str, Any] = {
        "messages": items.messages,
        "tools": functions or None,
        "tool_choice": _choice(body, bool(functions)),
        "response_format": _format(body.text.format if body.text is not None else None),
        "reasoning_effort": body.reasoning.effort if body.reasoning is not None else None,
        "max_completion_tokens": getattr(body, "max_output_tokens", None),
    }
    if getattr(body, "top_logprobs", None) is not None or _LOGPROBS in include:
        data["logprobs"] = True
    same = (
        "temperature",
        "top_p",
        "top_logprobs",
        "seed",
        "logit_bias",
        "cache_salt",
        "parallel_tool_calls",
    )
    data |= {name: getattr(body, name, None) for name in same}
    data["model"] = body.model or "model"
    if isinstance(body, ResponsesRequest) and body.moe is not None:
        data["moe"] = body.moe.model_dump(exclude_none=True)
    chat, more = chat_request(data, items.placed, ignored.strict)
    return chat, [*ignored, *more]


def _choice(body: InputRequest, has_tools: bool) -> Any:
    choice = body.tool_choice
    if isinstance(choice, dict):
        if choice.get("type") == "allowed_tools":
            tools = choice.get("tools")
            listed = [_nested(tool) for tool in tools] if isinstance(tools, list) else tools
            return {"type": "allowed_tools", "allowed_tools": {"mode": choice.get("mode"), "tools": listed}}
        if choice.get("type") not in ("function", "custom") or not isinstance(choice.get("name"), str):
            raise unsupported("this tool_choice", "/tool_choice")
        return _nested({"type": choice["type"], "name": choice["name"]})
    return choice if has_tools or choice == "required" else None


def _nested(tool: Any) -> Any:
    """A tool, or an entry of `allowed_tools`, in the form of the chat API."""
    if not isinstance(tool, dict):
        return tool
    fields = {k: v for k, v in tool.items() if k != "type"}
    form = fields.get("format")
    if tool.get("type") == "custom" and isinstance(form, dict) and form.get("type") == "grammar":
        fields["format"] = {"type": "grammar", "grammar": {k: v for k, v in form.items() if k != "type"}}
    return {"type": tool.get("type"), "custom" if tool.get("type") == "custom" else "function": fields}


def _format(given: TextFormat | None) -> Any:
    if given is None or given.type == "text":
        return None
    if given.type == "json_object":
        return {"type": "json_object"}
    if given.schema_ is None:
        raise ApiError(
            400, "/text/format/schema: is missing", "missing_required_parameter", "/text/format/schema"
        )
    inner = {"name": given.name or "answer", "schema": given.schema_, "strict": given.strict}
    return {"type": "json_schema", "json_schema": {k: v for k, v in inner.items() if v is not None}}


class _Run:
    """A running request."""

    def __init__(
        self, replies: Replies, received: Received[ResponsesRequest], ready: _Ready, memory: ItemMemory
    ) -> None:
        self._replies, self._received, self._ready, self._memory = replies, received, ready, memory
        self._output = Output()
        self._number = 0  # of the next event
        self._finish: str | None = None
        self._schema: str | None = None
        self._moe: dict[str, Any] | None = None
        self._head = {"id": new_id("resp"), "object": "response", "created_at": int(time.time())}

    async def whole(self) -> dict[str, Any]:
        """The plain answer."""
        async for _ in self._events():
            pass
        return await self._kept()

    async def stream(self) -> AsyncGenerator[bytes, None]:
        """Typed events, numbered."""
        for name in ("response.created", "response.in_progress"):
            yield self._event(name, {"response": self._response("in_progress")})
        async for item in self._events():
            yield self._event(*item)
        final = {"response": await self._kept() | self._received.last(self._ready.ignored)}
        yield self._event(f"response.{self._status}", final)

    def failed(self, error: ApiError) -> bytes:
        """The last event of a stream that fails.

        Its fields are those of the API's reference. `error` is what the API sends besides, and what the SDKs
        of OpenAI turn into an exception.
        """
        fields = {"code": error.code, "message": str(error), "param": error.param}
        return self._event("error", {**fields, **error.body()})

    def _event(self, name: str, data: dict[str, Any]) -> bytes:
        body = {"type": name, "sequence_number": self._number, **data}
        self._number += 1
        return b"event: " + name.encode() + b"\ndata: " + encode(body) + b"\n\n"

    async def _events(self) -> AsyncGenerator[ResponseEvent, None]:
        async with aclosing(self._replies.steps()) as batches:
            async for steps in batches:
                for step in steps:
                    self._finish = step.finish or self._finish
                    self._schema = step.schema or self._schema
                    if step.moe is not None:
                        tokens = (self._moe or {"tokens": []})["tokens"] + step.moe["tokens"]
                        self._moe = {**step.moe, "tokens": tokens}
                    for event in self._output.add(step):
                        yield event
        for event in self._output.close(cut=self._status == "incomplete"):
            yield event

    async def _kept(self) -> dict[str, Any]:
        """The complete response, after it was kept."""
        answer = self._response(self._status)
        lost = await self._memory.keep(answer, self._output.items)
        self._ready.ignored.extend(lost)
        return {**answer, "store": self._memory.keeps}

    @property
    def _status(self) -> str:
        return "incomplete" if self._finish == "length" else "completed"

    def _response(self, status: str) -> dict[str, Any]:
        params = self._ready.talk.jobs[0].params
        answer = {
            **self._head,
            **asked(self._received.body, params, self._memory),
            **outcome(status, self._output.items, self._replies.usage),
        }
        if self._ready.left_out:
            answer["x_coterie_left_out"] = self._ready.left_out
        if self._moe is not None and status != "in_progress":
            answer["moe"] = self._moe
        if self._schema is not None:
            answer["x_coterie_schema"] = self._ready.items.placed(self._schema)
        return answer
