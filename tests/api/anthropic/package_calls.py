"""Run with the `anthropic` package: what it makes of the answers of the server at an address, as JSON."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import anthropic
import httpx2

HELLO: list[Any] = [{"role": "user", "content": "Hello"}]
ASK: dict[str, Any] = {"model": "tiny", "max_tokens": 8, "messages": HELLO}
sent: list[str] = []
http = httpx2.Client(event_hooks={"request": [lambda request: sent.append(str(request.url))]})
client = anthropic.Anthropic(base_url=sys.argv[1], api_key="none", max_retries=0, http_client=http)


def error(**body: Any) -> list[Any]:
    try:
        client.messages.create(**{**ASK, **body})
    except anthropic.APIStatusError as raised:
        same = raised.request_id == raised.body["request_id"]
        return [type(raised).__name__, raised.status_code, raised.type, same]
    return []


async def many() -> list[Any]:
    async with anthropic.AsyncAnthropic(base_url=sys.argv[1], api_key="none") as own:
        return list(await asyncio.gather(*(own.messages.create(**ASK) for _ in range(3))))


def answers() -> dict[str, Any]:
    found: dict[str, Any] = {}
    listed = client.models.list(limit=1)
    found["models"] = [model.id for model in listed]  # pages are fetched as they are needed
    found["model"] = client.models.retrieve("small").id
    found["created"] = client.models.retrieve("tiny").created_at.year > 2000

    found["errors"] = [
        error(model="none"),
        error(messages=[]),
        error(messages=[{"role": "user", "content": "Hello! " * 1000}]),
    ]

    beta = client.beta.messages.create(
        **ASK,
        betas=["context-management-2025-06-27", "interleaved-thinking-2025-05-14"],
        context_management={"edits": [{"type": "clear_thinking_20251015"}]},
        thinking={"type": "adaptive"},
        output_config={"effort": "high"},
        system=[{"type": "text", "text": "Be brief", "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
    )
    found["beta"] = [beta.stop_reason, beta.usage.output_tokens, sent[-1].split("/v1")[1]]
    raw = client.messages.with_raw_response.create(**ASK)
    found["request id"] = raw.parse()._request_id == raw.headers["x-request-id"]
    with client.messages.stream(**ASK) as stream:
        kinds = [event.type for event in stream]
        found["stream"] = [kinds[0], kinds[-1], stream.get_final_message().usage.output_tokens]

    found["together"] = [len(message.content) > 0 for message in asyncio.run(many())]
    return found


def refusals() -> list[Any]:
    """Of a server that takes no requests: how often the package asks, and what it raises."""
    try:
        client.with_options(max_retries=1).messages.create(**ASK)
    except anthropic.APIStatusError as raised:
        return [type(raised).__name__, raised.status_code, raised.type, len(sent)]
    return []


print(json.dumps(answers() if sys.argv[2] == "answers" else refusals()))
