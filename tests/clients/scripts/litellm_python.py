"""litellm for Python over chat and Responses, as its proxy and aider use it."""

from __future__ import annotations

import json
from typing import Any

import litellm
from parts import CALCULATOR, DOG, DOG_SCHEMA, ENDLESS, GREETING, MOST, SUM, calculator, main

FUNCTION = {"name": "calculator", "description": "Work out a sum.", "parameters": CALCULATOR}


def asked(url: str, question: str, **more: Any) -> dict[str, Any]:
    to = {"model": "openai/tiny", "api_base": url + "/v1", "api_key": "none", "num_retries": 0}
    return {**to, "messages": [{"role": "user", "content": question}], "temperature": 0, **more}


def chat(url: str) -> Any:
    return litellm.completion(**asked(url, GREETING, max_tokens=MOST)).choices[0].message.content


def stream(url: str) -> Any:
    pieces = litellm.completion(**asked(url, GREETING, max_tokens=MOST), stream=True)
    return "".join(piece.choices[0].delta.content or "" for piece in pieces)


def tools(url: str) -> Any:
    """The message goes back with all that litellm puts into it, among it `provider_specific_fields`."""
    said = asked(url, SUM, tools=[{"type": "function", "function": FUNCTION}], max_tokens=200)
    for turn in range(5):
        if turn:
            message = litellm.completion(**said).choices[0].message
        else:
            pieces = list(litellm.completion(**said, stream=True))
            message = litellm.stream_chunk_builder(pieces).choices[0].message
        if not message.tool_calls:
            return message.content
        said["messages"].append(message.model_dump())
        for call in message.tool_calls:
            result = calculator(**json.loads(call.function.arguments))
            said["messages"].append({"role": "tool", "tool_call_id": call.id, "content": result})


def structured(url: str) -> Any:
    form = {"type": "json_schema", "json_schema": {"name": "dog", "schema": DOG_SCHEMA, "strict": True}}
    reply = litellm.completion(**asked(url, DOG, max_tokens=80, response_format=form))
    return json.loads(reply.choices[0].message.content)


def cancel(url: str) -> Any:
    pieces = litellm.completion(**asked(url, ENDLESS, max_tokens=20_000), stream=True)
    seen = [next(pieces).object for _ in range(3)]
    pieces.completion_stream.close()
    return seen


def responses(url: str) -> Any:
    to = {"model": "openai/tiny", "api_base": url + "/v1", "api_key": "none"}
    reply = litellm.responses(input=GREETING, temperature=0, max_output_tokens=MOST, **to)
    return "".join(part.text for item in reply.output for part in item.content)


main(
    {
        "chat": chat,
        "chat stream": stream,
        "chat tools": tools,
        "chat structured": structured,
        "chat cancel": cancel,
        "responses": responses,
    }
)
