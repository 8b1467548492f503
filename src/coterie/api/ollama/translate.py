"""A request in Ollama's form as the chat request that asks for the same."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from coterie.api.ollama.bodies import OllamaChat, OllamaGenerate, OllamaMessage, OllamaReply, Options
from coterie.hosting.errors import ApiError, invalid
from coterie.hosting.service import Service
from coterie.protocol.conversation import template_facts
from coterie.protocol.requests import ChatRequest
from coterie.protocol.translation import chat_request, in_terms_of, rewriting
from coterie.reasoning.effort import can_reason
from coterie.text.reply_formats import format_of

# Fields of the chat API, and their places in a request of Ollama's form.
_OPTIONS = ("temperature", "top_k", "top_p", "min_p", "seed", "stop", "presence_penalty", "frequency_penalty")
place = rewriting(
    {
        "/response_format/json_schema/schema": "/format",
        "/response_format": "/format",
        "/guided_json": "/format",
        "/max_completion_tokens": "/options/num_predict",
        "/max_tokens": "/options/num_predict",
        "/reasoning_effort": "/think",
        "/enable_thinking": "/think",
        "/repetition_penalty": "/options/repeat_penalty",
        **{f"/{name}": f"/options/{name}" for name in _OPTIONS},
    }
)
# The same for names of fields without effect.
name_of = in_terms_of(
    {
        "messages.reasoning_content": "messages.thinking",
        "reasoning_effort": "think",
        "enable_thinking": "think",
    },
    place,
)


def chat_of(service: Service, body: OllamaChat | OllamaGenerate) -> tuple[ChatRequest, list[str]]:
    """The same request in the chat API, and the fields without effect. Errors: `ApiError` 400."""
    if isinstance(body, OllamaChat):
        messages, tools = messages_of(body.messages), body.tools
    else:
        messages, tools = [{"role": "user", "content": body.prompt}], None
        if body.system:
            messages.insert(0, {"role": "system", "content": body.system})
    data: dict[str, Any] = {
        "model": body.model,
        "messages": messages,
        "tools": [tool.model_dump(exclude_none=True) for tool in tools] if tools else None,
        "continue_final_message": messages[-1]["role"] == "assistant" and "tool_calls" not in messages[-1],
        "logprobs": body.logprobs,
        "top_logprobs": body.top_logprobs,
        "moe": None if body.moe is None else body.moe.model_dump(exclude_none=True),
        **options_of_reply(body.options),
        **_format(body),
        **_thinking(service, body, bool(tools)),
    }
    chat, named = chat_request(data, place, service.settings.strict)
    return chat, list(map(name_of, named))


def messages_of(given: Sequence[OllamaMessage]) -> list[dict[str, Any]]:
    """Turns of the chat API. Ollama has no ids of calls: a result belongs to the next call of its tool."""
    messages: list[dict[str, Any]] = []
    waiting: list[tuple[str, str]] = []  # (id, tool) of calls without a result
    number = 0
    for turn in given:
        message: dict[str, Any] = {"role": turn.role, "content": turn.content}
        if turn.role == "assistant" and turn.thinking:
            message["reasoning_content"] = turn.thinking
        if turn.tool_calls:
            calls = []
            for call in turn.tool_calls:
                number += 1
                # Nine letters and digits: Mistral's templates take no other id.
                made = call.id or f"call{number:05d}"
                waiting.append((made, call.function.name))
                arguments = json.dumps(call.function.arguments, ensure_ascii=False)
                function = {"name": call.function.name, "arguments": arguments}
                calls.append({"id": made, "type": "function", "function": function})
            message["tool_calls"] = calls
            message["content"] = turn.content or None
        if turn.role == "tool":
            message["content"] = turn.content or ""
            wanted = [pair for pair in waiting if turn.tool_name in (None, pair[1])]
            found = next((pair for pair in waiting if pair[0] == turn.tool_call_id), None)
            chosen = found or (wanted[0] if wanted else None)
            if chosen is not None:
                waiting.remove(chosen)
            message["tool_call_id"] = turn.tool_call_id or (chosen[0] if chosen else None)
            message["name"] = turn.tool_name
        messages.append(
            {key: value for key, value in message.items() if value is not None or key == "content"}
        )
    return messages


def options_of_reply(options: Options | None) -> dict[str, Any]:
    """Fields of `Generation` for `options`; -1 and -2 for `num_predict` mean what fits."""
    if options is None:
        return {}
    data = {name: getattr(options, name) for name in _OPTIONS}
    data["repetition_penalty"] = options.repeat_penalty
    if options.num_predict is not None and options.num_predict >= 0:
        if options.num_predict == 0:
            raise invalid("/options/num_predict: a reply has at least one token", "/options/num_predict")
        data["max_tokens"] = options.num_predict
    return {name: value for name, value in data.items() if value is not None and value != []}


def _format(body: OllamaReply) -> dict[str, Any]:
    if body.format in (None, ""):
        return {}
    if body.format == "json":
        return {"response_format": {"type": "json_object"}}
    inner = {"name": "answer", "schema": body.format}
    return {"response_format": {"type": "json_schema", "json_schema": inner}}


def _thinking(service: Service, body: OllamaReply, tools: bool) -> dict[str, Any]:
    """How much to think. Errors: `ApiError` 400 where the model cannot think, in Ollama's words."""
    if body.think is None:
        return {}
    if body.think is False:
        return {"enable_thinking": False}
    template = service.tokenizer.template_for(tools)
    if not can_reason(template, template_facts(service, tools), format_of(template)):
        raise ApiError(
            400, f'/think: "{body.model}" does not support thinking', "unsupported_parameter", "/think"
        )
    return {"reasoning_effort": body.think} if isinstance(body.think, str) else {"enable_thinking": True}
