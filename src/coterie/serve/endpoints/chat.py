"""`POST /v1/chat/completions`."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from coterie.serve.core.service import Service
from coterie.serve.endpoints.conversation import Conversation, prepare
from coterie.serve.endpoints.protocol import ChatRequest, read
from coterie.serve.endpoints.replies import Delta, Replies
from coterie.serve.http.wire import DONE, EventStream, JsonAnswer, encode, read_object, unless_gone


async def chat_completions(request: Request) -> Response:
    """Answer a conversation, whole or streamed."""
    service: Service = request.app.state.service
    body, ignored = read(ChatRequest, await read_object(request, service.settings.max_body))
    variant = service.resolve(body.model)
    talk = await asyncio.to_thread(prepare, service, body)
    replies = Replies(service, talk, service.thread.submit(talk.jobs))
    headers = ignored_header([*ignored, *talk.ignored])
    head = {
        "id": "chatcmpl-" + secrets.token_hex(12),
        "created": int(time.time()),
        "model": body.model,
        "system_fingerprint": service.fingerprints[variant],
    }
    if body.stream:
        usage = body.stream_options is not None and body.stream_options.include_usage
        events = _stream(replies, head, usage, bool(body.return_token_ids))
        return EventStream(events, headers, service.explain, replies.call.cancel)
    answer = await unless_gone(request, _whole(replies, head, bool(body.return_token_ids)))
    return JsonAnswer(answer, headers=headers)


def ignored_header(names: list[str]) -> dict[str, str]:
    """The header that names fields without effect."""
    return {"x-coterie-ignored": ",".join(names)} if names else {}


def ping(replies: Replies) -> bytes:
    """A comment that keeps the connection open while the prompt is read."""
    read, total = replies.service.thread.progress(replies.call)
    return f": ping prefill={read}/{total}\n\n".encode()


async def _stream(
    replies: Replies, head: dict[str, Any], usage: bool, with_ids: bool
) -> AsyncGenerator[bytes, None]:
    head = {**head, "object": "chat.completion.chunk"}

    def chunk(choices: list[dict[str, Any]], **more: Any) -> bytes:
        return b"data: " + encode({**head, "choices": choices, **more}) + b"\n\n"

    more = {"usage": None} if usage else {}
    begun: set[int] = set()
    deltas = replies.deltas()
    try:
        async for batch in deltas:
            if not batch:
                yield ping(replies)
            for delta in batch:
                first = delta.index not in begun
                begun.add(delta.index)
                for choice in _chunks(delta, first, with_ids, replies.talk):
                    if first and with_ids:
                        choice["prompt_token_ids"] = replies.talk.prompt
                    first = False
                    yield chunk([choice], **more)
    finally:
        await deltas.aclose()  # type: ignore[attr-defined]
    if usage:
        yield chunk([], usage=replies.usage.to_dict())
    yield DONE


def _chunks(delta: Delta, first: bool, with_ids: bool, talk: Conversation) -> list[dict[str, Any]]:
    """The choices to send for one step: what was added, then why it ended."""
    choices = []
    added: dict[str, Any] = {"role": "assistant", "content": ""} if first else {}
    if delta.piece.reasoning:
        added["reasoning_content"] = delta.piece.reasoning
    if delta.piece.content:
        added["content"] = delta.piece.content
    if delta.piece.calls:
        added["tool_calls"] = delta.piece.calls
    if added or delta.logprobs or with_ids or delta.moe:
        choice: dict[str, Any] = {
            "index": delta.index,
            "delta": added,
            "logprobs": None,
            "finish_reason": None,
        }
        if delta.logprobs is not None:
            choice["logprobs"] = {"content": delta.logprobs, "refusal": None}
        if with_ids:
            choice["token_ids"] = delta.ids
        if delta.moe:
            choice["moe"] = delta.moe
        choices.append(choice)
    if delta.finish is not None:
        choices.append({"index": delta.index, "delta": {}, "logprobs": None, "finish_reason": delta.finish})
    return choices


async def collect(replies: Replies) -> list[dict[str, Any]]:
    """The whole choices."""
    whole: list[dict[str, Any]] = [
        {"content": "", "reasoning": "", "calls": [], "ids": [], "logprobs": [], "finish": None, "moe": None}
        for _ in replies.talk.jobs
    ]
    async for batch in replies.deltas():
        for delta in batch:
            choice = whole[delta.index]
            choice["content"] += delta.piece.content
            choice["reasoning"] += delta.piece.reasoning
            choice["calls"] += delta.piece.calls
            choice["ids"] += delta.ids
            choice["logprobs"] += delta.logprobs or []
            choice["finish"] = delta.finish or choice["finish"]
            if choice["moe"] is None:
                choice["moe"] = delta.moe
            elif delta.moe is not None:
                choice["moe"]["tokens"] += delta.moe["tokens"]
    return whole


async def _whole(replies: Replies, head: dict[str, Any], with_ids: bool) -> dict[str, Any]:
    choices = []
    for index, part in enumerate(await collect(replies)):
        message: dict[str, Any] = {"role": "assistant", "content": part["content"], "refusal": None}
        if part["reasoning"]:
            message["reasoning_content"] = part["reasoning"]
        if part["calls"]:
            message["tool_calls"] = [
                {k: v for k, v in call.items() if k != "index"} for call in part["calls"]
            ]
            message["content"] = part["content"] or None
        logprobs = (
            {"content": part["logprobs"], "refusal": None} if replies.talk.num_logprobs is not None else None
        )
        choice = {"index": index, "message": message, "logprobs": logprobs, "finish_reason": part["finish"]}
        if part["moe"] is not None:
            choice["moe"] = part["moe"]
        if with_ids:
            choice |= {"token_ids": part["ids"], "prompt_token_ids": replies.talk.prompt}
        choices.append(choice)
    return {**head, "object": "chat.completion", "choices": choices, "usage": replies.usage.to_dict()}
