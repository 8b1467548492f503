"""`POST /v1/responses`, stateless: every request contains the whole conversation."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any, Literal

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from coterie.api.common.body import MAX_TOKENS, Body, Name, Probability, Text, Whole, read
from coterie.api.common.conversation import Conversation, prepare
from coterie.api.common.protocol import MAX_MESSAGES, MAX_TOOLS, ChatRequest, MoeOptions, StreamOptions
from coterie.api.common.received import receive, respond
from coterie.api.common.replies import Replies
from coterie.api.common.wire import encode
from coterie.api.openai.response_items import ItemReader, Output, ResponseEvent
from coterie.hosting.errors import ApiError, unsupported
from coterie.hosting.service import Service


class TextFormat(Body):
    """`text.format`."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    name: Name | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None
    description: Text | None = None


class TextOptions(Body):
    """`text`."""

    format: TextFormat | None = None
    verbosity: str | None = None


class Reasoning(Body):
    """`reasoning`."""

    place = "reasoning"
    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    summary: str | None = None
    generate_summary: str | None = None


class ResponsesRequest(Body):
    """`POST /v1/responses`."""

    place = "/v1/responses"
    model: Name
    input: Text | Annotated[list[dict[str, Any]], Field(max_length=MAX_MESSAGES)]
    instructions: Text | None = None
    tools: Annotated[list[dict[str, Any]], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    reasoning: Reasoning | None = None
    max_output_tokens: Annotated[Whole, Field(ge=1, le=MAX_TOKENS)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Probability | None = None
    top_logprobs: Annotated[Whole, Field(ge=0, le=20)] | None = None
    seed: Whole | None = None
    logit_bias: dict[str, float] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    include: list[str] | None = None
    truncation: Literal["disabled", "auto"] | None = None
    previous_response_id: str | None = None
    cache_salt: Name | None = None
    moe: MoeOptions | None = None


async def responses(request: Request) -> Response:
    """Answer, whole or as typed events."""
    received = await receive(request, ResponsesRequest)
    service, body = received.service, received.body
    items = ItemReader(service.settings.strict)
    talk, ignored = await received.prepared(
        request, lambda: _prepared(service, body, received.variant, items)
    )
    replies = Replies(service, talk, service.thread.submit(talk.jobs))
    run = _Run(replies, body, items, received.last(ignored))
    return await respond(request, received, replies.call, run.stream, run.whole, ignored)


def _prepared(
    service: Service, body: ResponsesRequest, variant: str, items: ItemReader
) -> tuple[Conversation, list[str]]:
    """The conversation, and the fields without effect. Errors: `ApiError` 400 with a place in `input`."""
    chat, ignored = as_chat(body, items)
    try:
        talk = prepare(service, chat, variant)
    except ApiError as error:
        raise items.translated(error) from None
    return talk, [*ignored, *map(items.placed, talk.ignored)]


def as_chat(body: ResponsesRequest, items: ItemReader) -> tuple[ChatRequest, list[str]]:
    """The same request in the chat API, and the fields without effect. Errors: `ApiError` 400."""
    items.read(body.input, body.instructions)
    if body.previous_response_id is not None:
        raise unsupported("a stored conversation (send all items in 'input')", "/previous_response_id")
    if body.truncation == "auto":
        raise unsupported("cutting the prompt", "/truncation")
    functions, ignored = [], items.ignored
    for index, tool in enumerate(body.tools or ()):
        # A built-in tool of other servers, which clients send to every server.
        if tool.get("type") != "function":
            ignored.append(f"tools/{index}")
            continue
        items.tools.append(index)
        functions.append({"type": "function", "function": {k: v for k, v in tool.items() if k != "type"}})
    if body.include:
        ignored.append("include")
    if body.text is not None and body.text.verbosity is not None:
        ignored.append("text.verbosity")
    if body.reasoning is not None and (body.reasoning.summary or body.reasoning.generate_summary):
        ignored.append("reasoning.summary")
    data: dict[str, Any] = {
        "messages": items.messages,
        "tools": functions or None,
        "tool_choice": _choice(body, bool(functions)),
        "response_format": _format(body.text.format if body.text is not None else None),
        "reasoning_effort": body.reasoning.effort if body.reasoning is not None else None,
        "max_completion_tokens": body.max_output_tokens,
        "logprobs": True if body.top_logprobs is not None else None,
    }
    same = (
        "model",
        "temperature",
        "top_p",
        "top_logprobs",
        "seed",
        "logit_bias",
        "cache_salt",
        "parallel_tool_calls",
    )
    data |= {name: getattr(body, name) for name in same}
    if body.moe is not None:
        data["moe"] = body.moe.model_dump(exclude_none=True)
    try:
        asked = {key: value for key, value in data.items() if value is not None}
        chat, more = read(ChatRequest, asked, items.ignored.strict)
    except ApiError as error:
        raise items.translated(error) from None
    return chat, [*ignored, *more]


def _choice(body: ResponsesRequest, has_tools: bool) -> Any:
    choice = body.tool_choice
    if isinstance(choice, dict):
        if choice.get("type") == "allowed_tools":
            tools = choice.get("tools")
            listed = [_named(tool) for tool in tools] if isinstance(tools, list) else tools
            return {"type": "allowed_tools", "allowed_tools": {"mode": choice.get("mode"), "tools": listed}}
        if choice.get("type") != "function" or not isinstance(choice.get("name"), str):
            raise unsupported("this tool_choice", "/tool_choice")
        return {"type": "function", "function": {"name": choice["name"]}}
    return choice if has_tools or choice == "required" else None


def _named(tool: Any) -> Any:
    """An entry of `allowed_tools` in the form of the chat API."""
    if not isinstance(tool, dict):
        return tool
    return {"type": tool.get("type"), "function": {k: v for k, v in tool.items() if k != "type"}}


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
        self, replies: Replies, body: ResponsesRequest, items: ItemReader, last: dict[str, Any]
    ) -> None:
        self._replies, self._body, self._items, self._last = replies, body, items, last
        self._output = Output()
        self._finish: str | None = None
        self._schema: str | None = None
        self._moe: dict[str, Any] | None = None
        self._id, self._created = "resp_" + secrets.token_hex(16), int(time.time())

    async def whole(self) -> dict[str, Any]:
        """The plain answer."""
        async for _ in self._events():
            pass
        return self._response(self._status)

    async def stream(self) -> AsyncGenerator[bytes, None]:
        """Typed events, numbered."""
        number = 0

        def event(name: str, data: dict[str, Any]) -> bytes:
            nonlocal number
            body = {"type": name, "sequence_number": number, **data}
            number += 1
            return b"event: " + name.encode() + b"\ndata: " + encode(body) + b"\n\n"

        for name in ("response.created", "response.in_progress"):
            yield event(name, {"response": self._response("in_progress")})
        async for item in self._events():
            yield self._replies.ping() if item is None else event(*item)
        yield event(f"response.{self._status}", {"response": self._response(self._status) | self._last})

    async def _events(self) -> AsyncGenerator[ResponseEvent | None, None]:
        async with aclosing(self._replies.steps()) as batches:
            async for steps in batches:
                if not steps:
                    yield None
                for step in steps:
                    self._finish = step.finish or self._finish
                    self._schema = step.schema or self._schema
                    if step.moe is not None:
                        tokens = (self._moe or {"tokens": []})["tokens"] + step.moe["tokens"]
                        self._moe = {**step.moe, "tokens": tokens}
                    for event in self._output.add(step.delta, step.logprobs):
                        yield event
        for event in self._output.close():
            yield event

    @property
    def _status(self) -> str:
        return "incomplete" if self._finish == "length" else "completed"

    def _response(self, status: str) -> dict[str, Any]:
        body, usage = self._body, self._replies.usage
        given = body.model_dump(
            mode="json",
            by_alias=True,
            include={
                "instructions",
                "max_output_tokens",
                "temperature",
                "top_p",
                "top_logprobs",
                "reasoning",
                "text",
            },
        )
        done = status != "in_progress"
        answer = {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "status": status,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "model": body.model,
            "output": self._output.items if done else [],
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "tool_choice": body.tool_choice or "auto",
            "tools": [tool for tool in body.tools or () if tool.get("type") == "function"],
            "previous_response_id": None,
            "truncation": "disabled",
            "store": False,
            "metadata": {},
            "usage": None,
            **given,
        }
        if done:
            answer["usage"] = {
                "input_tokens": usage.prompt,
                "input_tokens_details": {"cached_tokens": usage.cached},
                "output_tokens": usage.completion,
                "output_tokens_details": {"reasoning_tokens": usage.reasoning},
                "total_tokens": usage.prompt + usage.completion,
            }
            if self._moe is not None:
                answer["moe"] = self._moe
            if self._schema is not None:
                answer["x_coterie_schema"] = self._items.placed(self._schema)
        return answer
