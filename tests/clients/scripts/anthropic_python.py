"""anthropic for Python over /v1/messages."""

from __future__ import annotations

import json
from typing import Any, Literal

import anthropic
import pydantic
from parts import CALCULATOR, DOG, DOG_SCHEMA, ENDLESS, GREETING, MOST, SUM, calculator, main

TOOL = {"name": "calculator", "description": "Work out a sum.", "input_schema": CALCULATOR}


class Dog(pydantic.BaseModel):
    name: Literal["Rex", "Fido"]
    age: Literal[1, 2, 3]


def client(url: str) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=url, api_key="none", max_retries=0)


def asked(question: str, most: int = MOST, **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": question}]
    given = {"model": "tiny", "messages": messages, "max_tokens": most, **more}
    return {**given, "extra_body": {"temperature": 0}}  # this version has no argument for it


def create(url: str) -> Any:
    return "".join(block.text for block in client(url).messages.create(**asked(GREETING)).content)


def stream(url: str) -> Any:
    with client(url).messages.stream(**asked(GREETING)) as events:
        text = "".join(events.text_stream)
        final = events.get_final_message()
    assert text == "".join(block.text for block in final.content) and final.usage.output_tokens > 0
    return text


def tools(url: str) -> Any:
    said = asked(SUM, 200, tools=[TOOL])
    for _ in range(5):
        with client(url).messages.stream(**said) as events:
            message = events.get_final_message()
        if message.stop_reason != "tool_use":
            return "".join(block.text for block in message.content)
        said["messages"].append({"role": "assistant", "content": message.content})
        results = [
            {"type": "tool_result", "tool_use_id": block.id, "content": calculator(**block.input)}
            for block in message.content
            if block.type == "tool_use"
        ]
        said["messages"].append({"role": "user", "content": results})


def structured(url: str) -> Any:
    """A tool that must be called, the way that every version of the package has."""
    tool = {"name": "dog", "description": "Note a dog.", "input_schema": DOG_SCHEMA}
    choice = {"type": "tool", "name": "dog"}
    message = client(url).messages.create(**asked(DOG, 100, tools=[tool], tool_choice=choice))
    (block,) = (block for block in message.content if block.type == "tool_use")
    return block.input


def parsed(url: str) -> Any:
    """The package's own structured output (`output_config.format`)."""
    message = client(url).messages.parse(**asked(DOG, 100), output_format=Dog)
    return message.parsed_output.model_dump()


def counted(url: str) -> Any:
    """The count beforehand, and the count of the reply."""
    said = asked(SUM, 5, tools=[TOOL], system="You are short.")
    whole = client(url).messages.create(**said).usage
    count = {key: value for key, value in said.items() if key not in ("max_tokens", "extra_body")}
    before = client(url).messages.count_tokens(**count).input_tokens
    return [before, whole.input_tokens + (whole.cache_read_input_tokens or 0)]


def refused(url: str) -> Any:
    try:
        client(url).messages.create(**asked(GREETING, 0))
    except anthropic.BadRequestError as error:
        return [error.body["type"], error.body["error"]["type"], json.dumps(error.body["error"]["message"])]


def cancel(url: str) -> Any:
    with client(url).messages.create(**asked(ENDLESS, 20_000), stream=True) as events:
        return [next(events).type for _ in range(4)]


main(
    {
        "messages": create,
        "messages stream": stream,
        "messages tools": tools,
        "messages structured": structured,
        "messages parsed": parsed,
        "messages counted": counted,
        "messages refused": refused,
        "messages cancel": cancel,
    }
)
