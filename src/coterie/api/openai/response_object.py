"""The response object: what was asked, as OpenAI gives it back, and what came of it."""

from __future__ import annotations

import time
from typing import Any

from coterie.api.openai.memory import ItemMemory
from coterie.api.openai.response_bodies import ResponsesRequest
from coterie.infer.sampling import SamplingParams
from coterie.protocol.replies import Usage

# Labels that are given back and do nothing else; `x-coterie-ignored` names them.
LABELS = ("prompt_cache_key", "prompt_cache_retention", "safety_identifier", "user")


def asked(body: ResponsesRequest, params: SamplingParams, memory: ItemMemory) -> dict[str, Any]:
    """The fields that say how the response is made. `params`: the engine's settings."""
    text = {} if body.text is None else body.text.model_dump(mode="json", by_alias=True, exclude_none=True)
    reasoning = {} if body.reasoning is None else body.reasoning.model_dump(mode="json", exclude_none=True)
    conversation = None if memory.conversation is None else {"id": memory.conversation}
    return {
        "background": False,
        "conversation": conversation,
        "max_tool_calls": None,
        "metadata": body.metadata or {},
        "model": body.model,
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": memory.previous,
        "reasoning": {"effort": None, "summary": None, **reasoning},
        "service_tier": "default",
        "store": memory.keeps,
        "temperature": params.temperature,
        "text": {**text, "format": _format(text.get("format"))},
        "tool_choice": body.tool_choice or "auto",
        "tools": [_tool(tool) for tool in body.tools or () if tool.get("type") in ("function", "custom")],
        "top_logprobs": body.top_logprobs or 0,
        "top_p": params.top_p,
        "truncation": body.truncation or "disabled",
        **{name: _label(getattr(body, name)) for name in LABELS},
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
    }


def outcome(status: str, output: list[dict[str, Any]], usage: Usage) -> dict[str, Any]:
    """The fields that say what came of it. `status`: `in_progress`, `completed` or `incomplete`."""
    counts = {
        "input_tokens": usage.prompt,
        "input_tokens_details": {"cached_tokens": usage.cached, "cache_write_tokens": 0},
        "output_tokens": usage.completion,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.prompt + usage.completion,
    }
    done = status != "in_progress"
    return {
        "status": status,
        "completed_at": int(time.time()) if status == "completed" else None,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
        "output": output if done else [],
        "usage": counts if done else None,
    }


def _label(given: Any) -> str | None:
    return given if isinstance(given, str) else None


def _format(given: dict[str, Any] | None) -> dict[str, Any]:
    if given is None or given["type"] != "json_schema":
        return {"type": "text"} if given is None else {"type": given["type"]}
    return {"name": "answer", "strict": False, **given}


def _tool(given: dict[str, Any]) -> dict[str, Any]:
    if given["type"] == "custom":
        return given
    return {"description": None, "parameters": None, "strict": False, **given}
