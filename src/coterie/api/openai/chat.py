"""`POST /v1/chat/completions`."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from coterie.protocol.chunks import chunks
from coterie.protocol.conversation import Conversation, prepare
from coterie.protocol.elections import PROGRESS, elected
from coterie.protocol.received import receive, respond
from coterie.protocol.replies import ChoiceStep, Replies, call_object, part_object, prompt_logprobs
from coterie.protocol.requests import ChatRequest, StreamOptions


async def chat_completions(request: Request) -> Response:
    """Answer a conversation, whole or streamed."""
    received = await receive(request, ChatRequest)
    service, body = received.service, received.body
    talk = await received.prepared(request, lambda: prepare(service, body, received.variant))
    replies = Replies(service, talk, service.thread.submit(talk.jobs))
    head = received.head("chatcmpl-")
    options = body.stream_options or StreamOptions()
    with_ids = bool(body.return_token_ids)
    return await respond(
        request,
        received,
        replies.call,
        lambda: chunks(
            {**head, "object": "chat.completion.chunk"},
            _added(replies, with_ids),
            replies.usage,
            options,
            received.last(talk.ignored),
        ),
        lambda: _whole(replies, head, with_ids),
        talk.ignored,
    )


def _steps(replies: Replies) -> AsyncGenerator[list[ChoiceStep], None]:
    """The steps of all choices, or of the one that they elect."""
    rule = replies.talk.vote
    return replies.steps() if rule is None else elected(replies, rule)


async def _added(replies: Replies, with_ids: bool) -> AsyncGenerator[list[dict[str, Any]], None]:
    """The `choices` entries of a stream, those of one step together."""
    begun: set[int] = set()
    async with aclosing(_steps(replies)) as batches:
        async for steps in batches:
            choices = []
            for step in steps:
                if step.token == PROGRESS:
                    empty = {"index": 0, "delta": {}, "logprobs": None, "finish_reason": None}
                    choices.append({**empty, "votes": step.votes})
                    continue
                choices += _chunks(step, step.index not in begun, with_ids, replies.talk)
                begun.add(step.index)
            yield choices


def _chunks(step: ChoiceStep, first: bool, with_ids: bool, talk: Conversation) -> list[dict[str, Any]]:
    """The `choices` entries to send for one step: what it added, then why the choice ended."""
    choices = []
    added: dict[str, Any] = {"role": "assistant", "content": ""} if first else {}
    if step.delta.reasoning:
        added["reasoning_content"] = step.delta.reasoning
    if step.delta.content:
        added["content"] = step.delta.content
    if step.delta.parts:
        added["tool_calls"] = [part_object(part) for part in step.delta.parts]
    if added or step.logprobs or with_ids or step.moe:
        choice: dict[str, Any] = {
            "index": step.index,
            "delta": added,
            "logprobs": None,
            "finish_reason": None,
        }
        if step.logprobs is not None:
            choice["logprobs"] = {"content": step.logprobs, "refusal": None}
        if with_ids:
            choice["token_ids"] = [step.token]
            if first:
                choice["prompt_token_ids"] = talk.prompt
        if step.moe:
            choice["moe"] = step.moe
        choices.append(choice)
    if step.finish is not None:
        end = {"index": step.index, "delta": {}, "logprobs": None, "finish_reason": step.finish}
        choices.append({**end, **_ending(step)})
    return choices


def _ending(step: ChoiceStep) -> dict[str, Any]:
    """What the last step of a choice says besides."""
    said = {"x_coterie_schema": step.schema, "process": step.process, "votes": step.votes}
    return {name: value for name, value in said.items() if value is not None}


async def _whole(replies: Replies, head: dict[str, Any], with_ids: bool) -> dict[str, Any]:
    whole: list[list[ChoiceStep]] = [[] for _ in range(1 if replies.talk.vote else len(replies.talk.jobs))]
    async with aclosing(_steps(replies)) as batches:
        async for steps in batches:
            for step in (step for step in steps if step.token != PROGRESS):
                whole[step.index].append(step)
    choices = [_choice(steps, with_ids, replies.talk) for steps in whole]
    answer = {**head, "object": "chat.completion", "choices": choices, "usage": replies.usage.to_dict()}
    if replies.prompt_scores is not None:
        tokenizer, job = replies.service.model.tokenizer, replies.talk.jobs[0]
        most = job.options.prompt_logprobs or 0
        answer["prompt_logprobs"] = prompt_logprobs(
            tokenizer, replies.talk.prompt, replies.prompt_scores, most
        )
    return answer


def _choice(steps: list[ChoiceStep], with_ids: bool, talk: Conversation) -> dict[str, Any]:
    """A whole choice: the sum of its steps."""
    content = "".join(step.delta.content for step in steps)
    reasoning = "".join(step.delta.reasoning for step in steps)
    calls = [call_object(call) for step in steps for call in step.delta.calls]
    message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
    if reasoning:
        message["reasoning_content"] = reasoning
    if calls:
        message["tool_calls"] = [{k: v for k, v in call.items() if k != "index"} for call in calls]
        message["content"] = content or None
    logprobs = None
    if talk.num_logprobs is not None:
        entries = [entry for step in steps for entry in step.logprobs or ()]
        logprobs = {"content": entries, "refusal": None}
    choice = {
        "index": steps[0].index,
        "message": message,
        "logprobs": logprobs,
        "finish_reason": steps[-1].finish,
    }
    choice |= _ending(steps[-1])
    routed = [step.moe for step in steps if step.moe is not None]
    if routed:
        choice["moe"] = {**routed[0], "tokens": [token for moe in routed for token in moe["tokens"]]}
    if with_ids:
        choice |= {"token_ids": [step.token for step in steps], "prompt_token_ids": talk.prompt}
    return choice
