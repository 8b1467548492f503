"""`/api/chat` and `/api/generate`: lines add up to the plain answer; prompts are those of the chat API."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.request import Request, urlopen

import pytest

from coterie.hosting.host import Host
from coterie.serve.server import ServerThread
from tests.serve.scripted import follow
from tests.serve.support import ASK, call, service

GREEDY = {"temperature": 0, "num_predict": 8}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}
TIMES = ("created_at", "total_duration", "prompt_eval_duration", "eval_duration")


def ask(server: ServerThread, path: str = "/api/chat", **body: Any) -> tuple[int, dict[str, str], Any]:
    return call(server.url, "POST", path, {"model": "tiny", "options": GREEDY, "stream": False, **body})


def lines(server: ServerThread, path: str = "/api/chat", **body: Any) -> list[dict[str, Any]]:
    status, headers, text = ask(server, path, **{"stream": True, **body})
    assert status == 200 and headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in text.splitlines()]


def timeless(answer: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in answer.items() if name not in TIMES}


@pytest.fixture(scope="module")
def calling() -> Iterator[ServerThread]:
    """A model that calls `add` until it sees a result."""

    def say(prompt: str, held: bool) -> str | None:
        if "<tool_response>" in prompt:
            return "It is 5."
        return '<think>\nHm.\n</think>\n\n<tool_call>\n{"name": "add", "arguments": {"a": 2}}\n</tool_call>'

    with ServerThread(Host.of(follow(service(), say))) as running:
        yield running


@pytest.mark.parametrize("more", [{}, {"logprobs": True, "top_logprobs": 1}, {"format": "json"}])
def test_lines_add_up_to_the_plain_answer(server: ServerThread, more: dict[str, Any]) -> None:
    for path, asked in (("/api/chat", {"messages": ASK}), ("/api/generate", {"prompt": "Hello"})):
        plain = ask(server, path, **asked, **more)[2]
        *parts, last = lines(server, path, **asked, **more)
        assert last["done"] and not any(part["done"] for part in parts)
        text = "".join(p["message"]["content"] if "message" in p else p["response"] for p in parts)
        assert text == (plain["message"]["content"] if "message" in plain else plain["response"])
        logprobs = [entry for part in parts for entry in part.get("logprobs", ())]
        assert logprobs == plain.get("logprobs", []) and bool(logprobs) == ("logprobs" in more)
        for answer in (plain, last):
            answer.pop("message", None), answer.pop("response", None), answer.pop("logprobs", None)
        assert timeless(plain) == timeless(last)
        assert plain["done_reason"] in ("length", "stop") and plain["eval_count"] <= 8


def test_a_conversation_is_that_of_the_chat_api(server: ServerThread) -> None:
    asked = {"model": "tiny", "messages": ASK, "temperature": 0, "max_tokens": 8}
    chat = call(server.url, "POST", "/v1/chat/completions", asked)[2]
    ours = ask(server, messages=ASK)[2]
    assert ours["message"]["content"] == chat["choices"][0]["message"]["content"]
    assert ours["prompt_eval_count"] == chat["usage"]["prompt_tokens"]
    generated = ask(server, "/api/generate", prompt="Hello", format="")[2]
    assert generated["response"] == ours["message"]["content"]
    raw = ask(server, "/api/generate", prompt="Hello", raw=True)[2]
    text = call(server.url, "POST", "/v1/completions", {**asked, "messages": None, "prompt": "Hello"})[2]
    assert raw["response"] == text["choices"][0]["text"]
    assert raw["prompt_eval_count"] == text["usage"]["prompt_tokens"]


def test_calls_and_results_go_back_and_forth(calling: ServerThread) -> None:
    first = ask(calling, messages=ASK, tools=[TOOL], options={})[2]
    message = first["message"]
    assert message["thinking"] == "Hm." and message["tool_calls"][0]["function"] == {
        "index": 0, "name": "add", "arguments": {"a": 2},
    }  # fmt: skip
    streamed = [line["message"] for line in lines(calling, messages=ASK, tools=[TOOL], options={})]
    calls = [one for part in streamed for one in part.get("tool_calls", ())]
    assert [one["function"] for one in calls] == [message["tool_calls"][0]["function"]]
    assert "".join(part.get("thinking", "") for part in streamed) == "Hm."
    result = {"role": "tool", "tool_name": "add", "content": "5"}
    second = ask(calling, messages=[*ASK, message, result], tools=[TOOL], options={})[2]
    assert second["message"]["content"] == "It is 5."


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("/api/chat", {"model": "no"}, 404, '"no" does not exist here'),
        ("/api/chat", {"options": {"temperature": 9}}, 400, "/options/temperature"),
        ("/api/chat", {"options": {"mirostat": 2}}, 400, "/options/mirostat"),
        ("/api/chat", {"options": {"num_predict": 100_000}}, 400, "maximum context length"),
        ("/api/chat", {"messages": [{"role": "user", "content": "x", "images": ["aa"]}]}, 400, "images"),
        ("/api/chat", {"keep_alife": 1}, 400, "keep_alife"),
        ("/api/generate", {"prompt": "x", "suffix": "y"}, 400, "does not support insert"),
        ("/api/generate", {"prompt": "x", "context": [1]}, 400, "/context"),
        ("/api/generate", {"prompt": "x", "raw": True, "system": "y"}, 400, "/system"),
        ("/api/chat", {"format": {"type": "objekt"}}, 400, "/format"),
        ("/api/pull", {}, 400, "models are chosen when the server starts"),
    ],
)
def test_errors_have_ollamas_form(
    server: ServerThread, path: str, body: dict[str, Any], status: int, said: str
) -> None:
    if path == "/api/chat":
        body = {"messages": ASK, **body}
    found, _, answer = ask(server, path, **body)
    assert found == status and list(answer) == ["error"] and said in answer["error"]


def test_fields_without_effect_are_named(server: ServerThread) -> None:
    options = {"num_ctx": 4096, "num_thread": 4, "repeat_last_n": -1, "num_predict": 2}
    asked = {"messages": ASK, "keep_alive": "5m", "options": options}
    named = "keep_alive,options.num_ctx,options.num_thread"
    assert set(ask(server, **asked)[1]["x-coterie-ignored"].split(",")) == set(named.split(","))
    assert set(lines(server, **asked)[-1]["x_coterie_ignored"]) == set(named.split(","))


def test_an_empty_request_only_loads(server: ServerThread) -> None:
    for path in ("/api/chat", "/api/generate"):
        answer = ask(server, path, model="tiny:latest")[2]
        assert answer["done_reason"] == "load" and answer["model"] == "tiny"


def test_curl_as_the_examples_show_it(server: ServerThread) -> None:
    body = json.dumps({"model": "tiny", "messages": ASK, "stream": False, "options": GREEDY}).encode()
    with urlopen(Request(server.url + "/api/chat", body)) as answer:  # as a form, as curl sends it
        assert json.load(answer)["done"]
    form = {"content-type": "application/x-www-form-urlencoded"}
    assert call(server.url, "POST", "/api/chat", body, {**form, "origin": server.url})[0] == 415
    assert call(server.url, "POST", "/v1/chat/completions", body, form)[0] == 415
