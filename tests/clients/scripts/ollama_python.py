"""ollama for Python over /api/*."""

from __future__ import annotations

from typing import Any

import ollama
from parts import DOG, DOG_SCHEMA, ENDLESS, GREETING, MOST, SUM, calculator, main


def client(url: str) -> ollama.Client:
    return ollama.Client(host=url)


def asked(question: str, most: int = MOST, **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": question}]
    return {"model": "tiny", "messages": messages, "options": {"temperature": 0, "num_predict": most}, **more}


def chat(url: str) -> Any:
    return client(url).chat(**asked(GREETING)).message.content


def chat_stream(url: str) -> Any:
    pieces = list(client(url).chat(**asked(GREETING), stream=True))
    assert pieces[-1].done and pieces[-1].eval_count > 0
    return "".join(piece.message.content or "" for piece in pieces)


def chat_tools(url: str) -> Any:
    said = asked(SUM, 200, tools=[calculator])
    for _ in range(5):
        message = client(url).chat(**said).message
        if not message.tool_calls:
            return message.content
        said["messages"].append(message)
        for call in message.tool_calls:
            result = calculator(**call.function.arguments)
            said["messages"].append({"role": "tool", "tool_name": call.function.name, "content": result})


def chat_structured(url: str) -> Any:
    import json

    return json.loads(client(url).chat(**asked(DOG, 80, format=DOG_SCHEMA)).message.content)


def chat_cancel(url: str) -> Any:
    stream = client(url).chat(**asked(ENDLESS, 20_000), stream=True)
    seen = [next(stream).done for _ in range(3)]
    stream.close()
    return seen


def generate(url: str) -> Any:
    options = {"temperature": 0, "num_predict": MOST}
    return client(url).generate(model="tiny", prompt=GREETING, options=options).response


def generate_stream(url: str) -> Any:
    options = {"temperature": 0, "num_predict": MOST}
    stream = client(url).generate(model="tiny", prompt=GREETING, options=options, stream=True)
    return "".join(piece.response or "" for piece in stream)


def listed(url: str) -> Any:
    """Names in the list, what is shown of the model, what runs."""
    made = client(url)
    shown = made.show("tiny")
    return {
        "names": [model.model for model in made.list().models],
        "running": [model.model for model in made.ps().models],
        "capabilities": shown.capabilities,
        "context": [value for key, value in shown.modelinfo.items() if key.endswith("context_length")],
    }


def embedded(url: str) -> Any:
    return [len(row) for row in client(url).embed(model="tiny", input=["one", "two"]).embeddings]


def refused(url: str) -> Any:
    try:
        client(url).chat(model="nobody", messages=[])
    except ollama.ResponseError as error:
        return [error.status_code, error.error]


main(
    {
        "chat": chat,
        "chat stream": chat_stream,
        "chat tools": chat_tools,
        "chat structured": chat_structured,
        "chat cancel": chat_cancel,
        "generate": generate,
        "generate stream": generate_stream,
        "listed": listed,
        "embedded": embedded,
        "refused": refused,
    }
)
