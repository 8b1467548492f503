"""`POST /api/chat` and `POST /api/generate`."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from coterie.api.ollama.bodies import OllamaChat, OllamaGenerate, OllamaReply
from coterie.api.ollama.clock import nanoseconds, now
from coterie.api.ollama.translate import chat_of, name_of, options_of_reply, place
from coterie.hosting.engine_thread import Call, Job
from coterie.hosting.errors import ApiError, invalid
from coterie.hosting.service import Service
from coterie.protocol.conversation import prepare
from coterie.protocol.moe import options_of, routing_of
from coterie.protocol.received import Received, receive, respond
from coterie.protocol.replies import Replies, Usage, counted_events, logprob_entry
from coterie.protocol.requests import CompletionRequest, choose_tokens
from coterie.protocol.structured import check_end, structure_of
from coterie.protocol.wire import JsonAnswer, encode
from coterie.text.infilling import infill_form
from coterie.text.replies import NumberedCall


@dataclass
class Written:
    """What one step added to the reply."""

    content: str = ""
    thinking: str = ""
    calls: list[dict[str, Any]] = field(default_factory=list)
    logprobs: list[dict[str, Any]] | None = None
    moe: dict[str, Any] | None = None
    finish: str | None = None
    schema: str | None = None  # whether the finished reply keeps to its schema, if that was not enforced


Steps = Callable[[], AsyncGenerator[list[Written], None]]


async def chat(request: Request) -> Response:
    """Answer a conversation, in lines or whole; without messages the model is only loaded."""
    received = await receive(request, OllamaChat)
    if not received.body.messages:
        return _only_loaded(received, {"message": {"role": "assistant", "content": ""}})
    return await _conversation(request, received, _chat_line)


async def generate(request: Request) -> Response:
    """Continue a prompt, in lines or whole; an empty prompt only loads the model."""
    received = await receive(request, OllamaGenerate)
    body = received.body
    if not body.prompt and not body.suffix:
        return _only_loaded(received, {"response": ""})
    if not body.raw and not body.suffix:
        return await _conversation(request, received, _generate_line)
    service = received.service
    job = await received.prepared(request, lambda: _raw_job(service, body, received.variant))
    call = service.thread.submit([job])
    usage = Usage(len(job.prompt))
    return await _answer(
        request, received, call, lambda: _raw_steps(service, body, call, usage), usage, _generate_line, []
    )


async def _conversation(
    request: Request, received: Received[Any], line: Callable[[Written], dict[str, Any]]
) -> Response:
    service, body = received.service, received.body

    def prepared() -> tuple[Any, list[str]]:
        asked, ignored = chat_of(service, body)
        try:
            talk = prepare(service, asked, received.variant)
        except ApiError as error:
            raise error.moved(place) from None
        return talk, [*ignored, *map(name_of, talk.ignored)]

    talk, ignored = await received.prepared(request, prepared)
    replies = Replies(service, talk, service.thread.submit(talk.jobs))
    return await _answer(
        request, received, replies.call, lambda: _steps(replies), replies.usage, line, ignored
    )


async def _answer(
    request: Request,
    received: Received[Any],
    call: Call,
    steps: Steps,
    usage: Usage,
    line: Callable[[Written], dict[str, Any]],
    ignored: list[str],
) -> Response:
    run = _LineRun(received, steps, usage, line, received.last(ignored))
    return await respond(request, received, call, run.stream, run.whole, ignored, ping=run.ping)


async def _steps(replies: Replies) -> AsyncGenerator[list[Written], None]:
    """The steps of a conversation's reply."""
    async with aclosing(replies.steps()) as batches:
        async for steps in batches:
            yield [
                Written(
                    content=step.delta.content,
                    thinking=step.delta.reasoning,
                    calls=[_call(one) for one in step.delta.calls],
                    logprobs=step.logprobs,
                    moe=step.moe,
                    finish=step.finish,
                    schema=None if step.schema is None else place(step.schema),
                )
                for step in steps
            ]


async def _raw_steps(
    service: Service, body: OllamaGenerate, call: Call, usage: Usage
) -> AsyncGenerator[list[Written], None]:
    kind = "off" if body.moe is None else body.moe.routing
    async with aclosing(counted_events(service, call, usage)) as batches:
        async for events in batches:
            yield [
                Written(
                    content=event.text,
                    logprobs=[logprob_entry(service.tokenizer, event)] if body.logprobs else None,
                    moe=routing_of(kind, [event]),
                    finish=event.finish_reason,
                )
                for _, event in events
            ]


def _call(numbered: NumberedCall) -> dict[str, Any]:
    """A call with its arguments as an object; the text of a call that was cut off stands under `raw`."""
    arguments = {"raw": numbered.arguments} if numbered.broken else dict(numbered.call.arguments)
    function = {"index": numbered.index, "name": numbered.call.name, "arguments": arguments}
    return {"id": numbered.id, "function": function}


def _raw_job(service: Service, body: OllamaGenerate, variant: str) -> Job:
    """The job of a prompt without a template. Errors: `ApiError` 400."""
    if body.think:
        raise invalid("/think: goes with the chat template, which 'raw' and 'suffix' leave out", "/think")
    if body.system:
        raise invalid("/system: goes with the chat template, which 'raw' and 'suffix' leave out", "/system")
    data: dict[str, Any] = {"model": body.model, "prompt": body.prompt, **options_of_reply(body.options)}
    if body.format not in (None, ""):
        data["guided_json"] = {"type": "object"} if body.format == "json" else body.format
    asked = CompletionRequest.model_validate(data)
    stops: list[int] = []
    if body.suffix:
        form = infill_form(service.tokenizer)
        if form is None:
            raise ApiError(
                400, f'/suffix: "{body.model}" does not support insert', "unsupported_parameter", "/suffix"
            )
        ids = [*service.tokenizer.start_ids, *form.prompt(service.tokenizer, body.prompt, body.suffix)]
        stops = form.stops(service.tokenizer)
    else:
        ids = service.model.encode(body.prompt)
    try:
        limit = choose_tokens(asked.max_tokens, len(ids), service.max_length, service.model.reply_limit)
        params = asked.sampling(service.model, limit, body.top_logprobs or 0)
    except ApiError as error:
        raise error.moved(place) from None
    params = replace(params, stop_ids=(*(params.stop_ids or ()), *stops))
    options = options_of(service, asked.model_copy(update={"moe": body.moe}), variant)
    structure = structure_of(asked)
    if structure is not None:
        kept = structure.filter(service.grammars, None)
        check_end(asked, kept)
        options = replace(options, filter=kept)
    return Job(ids, params, options)


@dataclass
class _LineRun:
    """A running request: its lines, and the whole answer, which is what the lines add up to."""

    received: Received[Any]
    steps: Steps
    usage: Usage
    line: Callable[[Written], dict[str, Any]]
    last: dict[str, list[str]]
    begun: float = field(default_factory=time.monotonic)
    first: float | None = None

    async def stream(self) -> AsyncGenerator[bytes, None]:
        """Lines of JSON."""
        last = Written()
        async for written in self._written():
            last = written if written.finish else last
            line = self._with_extras(written)
            yield encode({**self._head(), **line, "done": False}) + b"\n"
        yield encode({**self._head(), **self.line(Written()), **self._end(last), **self.last}) + b"\n"

    def ping(self, note: str, begun: bool) -> bytes:
        """A line that adds nothing: lines of JSON have no comments."""
        return encode({**self._head(), **self.line(Written()), "done": False}) + b"\n"

    async def whole(self) -> dict[str, Any]:
        """The plain answer."""
        total, last = Written(), Written()
        async for written in self._written():
            last = written if written.finish else last
            total.content += written.content
            total.thinking += written.thinking
            total.calls += written.calls
            if written.logprobs is not None:
                total.logprobs = [*(total.logprobs or []), *written.logprobs]
            if written.moe is not None:
                before = [] if total.moe is None else total.moe["tokens"]
                total.moe = {**written.moe, "tokens": before + written.moe["tokens"]}
        return {**self._head(), **self._with_extras(total), **self._end(last)}

    async def _written(self) -> AsyncGenerator[Written, None]:
        """What there is to send."""
        async with aclosing(self.steps()) as batches:
            async for steps in batches:
                self.first = self.first or time.monotonic()
                for step in steps:
                    said = step.content or step.thinking or step.calls or step.logprobs or step.moe
                    if said or step.finish:
                        yield step

    def _with_extras(self, written: Written) -> dict[str, Any]:
        line = self.line(written)
        if written.logprobs is not None:
            line["logprobs"] = written.logprobs
        if written.moe is not None:
            line["moe"] = written.moe
        return line

    def _head(self) -> dict[str, Any]:
        return {"model": self.received.body.model, "created_at": now()}

    def _end(self, last: Written) -> dict[str, Any]:
        ended = time.monotonic()
        first = self.first or ended
        return {
            "done": True,
            "done_reason": "length" if last.finish == "length" else "stop",
            "total_duration": nanoseconds(ended - self.begun),
            "load_duration": 0,
            "prompt_eval_count": self.usage.prompt,
            "prompt_eval_duration": nanoseconds(first - self.begun),
            "eval_count": self.usage.completion,
            "eval_duration": nanoseconds(ended - first),
            **({} if last.schema is None else {"x_coterie_schema": last.schema}),
        }


def _chat_line(written: Written) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": written.content}
    if written.thinking:
        message["thinking"] = written.thinking
    if written.calls:
        message["tool_calls"] = written.calls
    return {"message": message}


def _generate_line(written: Written) -> dict[str, Any]:
    line: dict[str, Any] = {"response": written.content}
    if written.thinking:
        line["thinking"] = written.thinking
    return line


def _only_loaded(received: Received[Any], empty: dict[str, Any]) -> Response:
    body: OllamaReply = received.body
    answer = {"model": body.model, "created_at": now(), **empty, "done": True, "done_reason": "load"}
    return JsonAnswer(answer, headers=received.headers())
