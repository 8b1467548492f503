"""openai for Python over /v1/chat/completions and /v1/responses."""

from __future__ import annotations

import json
from typing import Any, Literal

import openai
import pydantic
from parts import CALCULATOR, DOG, ENDLESS, GREETING, MOST, SUM, calculator, main

FUNCTION = {"name": "calculator", "description": "Work out a sum.", "parameters": CALCULATOR}


class Dog(pydantic.BaseModel):
    name: Literal["Rex", "Fido"]
    age: int = pydantic.Field(ge=1, le=9)


def client(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=url + "/v1", api_key="none", max_retries=0)


def asked(question: str, **more: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": [{"role": "user", "content": question}], "temperature": 0, **more}


def chat(url: str) -> Any:
    choice = client(url).chat.completions.create(**asked(GREETING, max_tokens=MOST)).choices[0]
    return choice.message.content


def chat_stream(url: str) -> Any:
    stream = client(url).chat.completions.create(**asked(GREETING, max_tokens=MOST), stream=True)
    return "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)


def chat_tools(url: str) -> Any:
    said = asked(SUM, tools=[{"type": "function", "function": FUNCTION}])
    for _ in range(5):
        with client(url).chat.completions.stream(**said) as stream:
            message = stream.get_final_completion().choices[0].message
        if not message.tool_calls:
            return message.content
        said["messages"].append(message.model_dump())
        for call in message.tool_calls:
            result = calculator(**json.loads(call.function.arguments))
            said["messages"].append({"role": "tool", "tool_call_id": call.id, "content": result})


def chat_structured(url: str) -> Any:
    parsed = client(url).chat.completions.parse(**asked(DOG, max_tokens=80), response_format=Dog)
    return parsed.choices[0].message.parsed.model_dump()


def chat_cancel(url: str) -> Any:
    with client(url).chat.completions.create(**asked(ENDLESS), max_tokens=20_000, stream=True) as stream:
        return [next(stream).object for _ in range(3)]


def responses(url: str) -> Any:
    said = {"model": "tiny", "input": GREETING, "temperature": 0, "max_output_tokens": MOST}
    return client(url).responses.create(**said).output_text


def responses_stream(url: str) -> Any:
    said = {"model": "tiny", "input": GREETING, "temperature": 0, "max_output_tokens": MOST}
    stream = client(url).responses.create(**said, stream=True)
    return "".join(event.delta for event in stream if event.type == "response.output_text.delta")


def responses_tools(url: str) -> Any:
    """Each turn names the one before it, so the server keeps the conversation."""
    more: dict[str, Any] = {"input": SUM}
    for _ in range(5):
        tools = [{"type": "function", "strict": False, **FUNCTION}]
        with client(url).responses.stream(model="tiny", tools=tools, **more) as stream:
            reply = stream.get_final_response()
        calls = [item for item in reply.output if item.type == "function_call"]
        if not calls:
            return reply.output_text
        results = [
            {
                "type": "function_call_output",
                "call_id": call.call_id,
                "output": calculator(**json.loads(call.arguments)),
            }
            for call in calls
        ]
        more = {"input": results, "previous_response_id": reply.id}


def responses_structured(url: str) -> Any:
    said = {"model": "tiny", "input": DOG, "temperature": 0, "max_output_tokens": 80}
    reply = client(url).responses.parse(**said, text_format=Dog)
    return reply.output_parsed.model_dump()


def responses_cancel(url: str) -> Any:
    with client(url).responses.create(
        model="tiny", input=ENDLESS, max_output_tokens=20_000, stream=True
    ) as stream:
        return [next(stream).type for _ in range(6)]


main(
    {
        "chat": chat,
        "chat stream": chat_stream,
        "chat tools": chat_tools,
        "chat structured": chat_structured,
        "chat cancel": chat_cancel,
        "responses": responses,
        "responses stream": responses_stream,
        "responses tools": responses_tools,
        "responses structured": responses_structured,
        "responses cancel": responses_cancel,
    }
)
