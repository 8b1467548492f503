"""A reply of each form of reasoning is what the parser reads in every protocol, plain and streamed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from coterie.hosting.host import Host
from coterie.infer.model import LanguageModel
from coterie.serve.server import ServerThread
from coterie.text.chat import shipped_template
from coterie.text.replies import parse_reply
from coterie.text.reply_formats import format_of
from coterie.text.template_sources import ChatTemplates
from coterie.text.tokenizer import Tokenizer
from tests.infer.models import tiny_model
from tests.serve.scripted import follow
from tests.serve.support import ASK, call, service, tokenizer

# template -> what the model writes, and whether its prompt opens the reasoning
REPLIES = {
    "qwen3": ("<think>\nFirst 1 + 1 = 2.\n\nThen.\n</think>\n\nIt is 2.", False),
    "deepseek_r1": ("First 1 + 1 = 2.\n\nThen.\n</think>\n\nIt is 2.", True),
    "mistral": ("[THINK]First 1 + 1 = 2.\n\nThen.[/THINK]It is 2.", False),
    "gpt_oss": (
        "<|channel|>analysis<|message|>First 1 + 1 = 2.\n\nThen.<|end|><|start|>assistant"
        "<|channel|>final<|message|>It is 2.",
        False,
    ),
    "chatml": ("It is 2.", False),
}


def running(name: str, said: str) -> ServerThread:
    template = ChatTemplates.of(shipped_template(name))
    words = Tokenizer(tokenizer()._json, tokenizer()._config, template)
    model = tiny_model("dense", vocab_size=words.vocab_size, max_positions=512)
    made = service(LanguageModel(model, words), store=False)
    return ServerThread(Host.of(follow(made, lambda prompt, held: said)))


def events(server: ServerThread, path: str, body: dict[str, Any]) -> list[Any]:
    status, _, text = call(server.url, "POST", path, {**body, "stream": True})
    assert status == 200, text
    lines = [line.removeprefix("data:").strip() for line in text.splitlines()]
    return [json.loads(line) for line in lines if line.startswith("{")]


def answers(server: ServerThread) -> Iterator[tuple[str, str, str, int | None]]:
    """(protocol, reasoning, text, tokens of reasoning) of each."""
    limit = 200
    body: dict[str, Any] = {"model": "tiny", "messages": ASK, "max_tokens": limit}
    usage = {"stream_options": {"include_usage": True}}
    _, _, whole = call(server.url, "POST", "/v1/chat/completions", body)
    message = whole["choices"][0]["message"]
    assert "reasoning" not in message, "one name only"
    counted = whole["usage"]["completion_tokens_details"]["reasoning_tokens"]
    yield "chat", message.get("reasoning_content", ""), message["content"], counted
    parts = events(server, "/v1/chat/completions", {**body, **usage})
    deltas = [choice["delta"] for part in parts for choice in part["choices"]]
    counted = parts[-1]["usage"]["completion_tokens_details"]["reasoning_tokens"]
    yield "chat streamed", joined(deltas, "reasoning_content"), joined(deltas, "content"), counted

    body = {"model": "tiny", "input": "Hello", "max_output_tokens": limit, "store": False}
    _, _, whole = call(server.url, "POST", "/v1/responses", body)
    yield "responses", *of_response(whole)
    parts = events(server, "/v1/responses", body)
    yield "responses streamed", *of_response(parts[-1]["response"])
    thought = [part for part in parts if part["type"] == "response.reasoning_text.delta"]
    said = [part for part in parts if part["type"] == "response.output_text.delta"]
    yield "responses' deltas", joined(thought, "delta"), joined(said, "delta"), None

    body = {"model": "tiny", "messages": ASK, "max_tokens": limit}
    _, _, whole = call(server.url, "POST", "/v1/messages", body)
    blocks = whole["content"]
    yield "messages", joined(blocks, "thinking"), joined(blocks, "text"), None
    deltas = [part["delta"] for part in events(server, "/v1/messages", body) if "delta" in part]
    yield "messages streamed", joined(deltas, "thinking"), joined(deltas, "text"), None

    body = {"model": "tiny", "messages": ASK, "options": {"num_predict": limit}}
    _, _, whole = call(server.url, "POST", "/api/chat", {**body, "stream": False})
    yield "ollama", whole["message"].get("thinking", ""), whole["message"]["content"], None
    messages = [part["message"] for part in events(server, "/api/chat", body)]
    yield "ollama streamed", joined(messages, "thinking"), joined(messages, "content"), None


def joined(parts: list[Any], name: str) -> str:
    return "".join(part.get(name) or "" for part in parts)


def of_response(whole: Any) -> tuple[str, str, int]:
    thought = [part for item in whole["output"] if item["type"] == "reasoning" for part in item["content"]]
    said = [part for item in whole["output"] if item["type"] == "message" for part in item["content"]]
    counted = whole["usage"]["output_tokens_details"]["reasoning_tokens"]
    return joined(thought, "text"), joined(said, "text"), counted


@pytest.mark.parametrize("name", REPLIES)
def test_every_protocol_says_what_the_parser_reads(name: str) -> None:
    said, opened = REPLIES[name]
    wanted = parse_reply(said, format_of(shipped_template(name)), opened)
    assert wanted.text == "It is 2." and (wanted.reasoning is None) == (name == "chatml")
    with running(name, said) as server:
        found = [*answers(server)]
    assert {protocol: pair for protocol, *pair, _ in found} == {
        protocol: [wanted.reasoning or "", wanted.text] for protocol, *_ in found
    }
    (counted,) = {counted for *_, counted in found if counted is not None}
    assert bool(counted) == (wanted.reasoning is not None)
