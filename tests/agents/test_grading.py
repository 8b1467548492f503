"""The grader passes our own server, which keeps every promise, and catches each server that breaks one."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from coterie.agents import grading
from coterie.agents.checks import CHECKS, Stream
from coterie.agents.grading import Finding
from coterie.remote.client import Answer
from tests.agents.liar import Liar, changing, verdict
from tests.cli.support import call, fails


def test_our_server_keeps_every_promise(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    call("doctor", url, "--json")
    result = json.loads(capsys.readouterr().out)
    assert result["passed"] and len(result["findings"]) == len(CHECKS)
    absent = [found["name"] for found in result["findings"] if found["verdict"] == "absent"]
    assert not absent


@pytest.mark.parametrize(
    ("fields", "name", "said"),
    [
        (["n"], "n", "gave choices"),
        (["stop"], "stop", "goes on past"),
        (["seed"], "seeds repeat", "differ"),
        (["logprobs", "top_logprobs"], "logprobs", "left out"),
        (["max_tokens", "max_completion_tokens"], "max_tokens and max_completion_tokens", "tokens"),
        (["stream_options"], "usage when asked for", "gives no usage"),
        (["tool_choice", "tools"], "a call that must be made", "not complete after"),
        (["response_format"], "json_schema", ""),
        (["response_format"], "broken schemas are refused", "status 200"),
        (["temprature"], "fields that do not exist", "without a word"),
        (["audio"], "what it cannot do", "'audio' was accepted"),
        (["functions"], "what it cannot do", "'functions' was accepted"),
        (["echo"], "echo with logprobs", "does not give the prompt back"),
        (["top_p", "temperature", "n"], "sizes out of range", "status 200"),
        (["model"], "unknown models and routes", "not 404"),
    ],
)
def test_a_server_that_leaves_fields_out_is_caught(fields: list[str], name: str, said: str, url: str) -> None:
    def ignore(body: dict[str, Any]) -> None:
        for field in fields:
            if field == "model":
                body["model"] = "tiny"
            else:
                body.pop(field, None)
        if fields == ["max_tokens", "max_completion_tokens"]:
            body["max_tokens"] = 12

    found = verdict(Liar(url, body=ignore), name)
    assert found.verdict == "fail" and said in found.detail, found


def cut(body: dict[str, Any]) -> None:
    """Truncate the prompt, as some servers do."""
    for message in body.get("messages", ()):
        message["content"] = message["content"][:40]


def test_a_server_that_cuts_prompts_is_caught(url: str) -> None:
    found = verdict(Liar(url, body=cut), "a prompt that does not fit")
    assert found.verdict == "fail" and "status 200" in found.detail


def shifted(vector: Any) -> Any:
    """Other numbers where they are plain, the same where they are packed."""
    return [value + 1 for value in vector] if isinstance(vector, list) else vector


ARGUMENTS = ("choices", 0, "message", "tool_calls", 0, "function", "arguments")
CONTENT = ("choices", 0, "message", "content")
LOGPROBS = ("choices", 0, "logprobs", "token_logprobs")
COUNTER = iter(range(10**6))


@pytest.mark.parametrize(
    ("change", "name", "said"),
    [
        (changing("object", to="chat"), "form of an answer", "object"),
        (changing("choices", 0, "finish_reason", to="eos"), "form of an answer", "finish_reason is 'eos'"),
        (changing("choices", 0, "message", "role", to="bot"), "form of an answer", "role"),
        (changing("choices", to=[]), "form of an answer", "another form"),
        (changing("usage", "total_tokens", to=1), "usage", "add up"),
        (changing(*CONTENT, to=lambda _: f"{next(COUNTER)}"), "greedy replies repeat", "differ"),
        (changing(*CONTENT, to="other"), "same reply as without", "streamed"),
        (changing(*ARGUMENTS, to="{}"), "a call that must be made", "break the schema"),
        (changing(*CONTENT, to='{"colour": "blue", "sure": true}'), "json_schema", "breaks the schema"),
        (changing(*LOGPROBS, to=lambda v: v[1:]), "echo with logprobs", "log-probabilities for"),
        (changing("data", 0, "embedding", to=shifted), "floats and base64", "different numbers"),
    ],
)  # fmt: skip
def test_answers_that_are_wrong_are_caught(
    change: Callable[[Any], Any], name: str, said: str, url: str
) -> None:
    found = verdict(Liar(url, answer=change), name)
    assert found.verdict == "fail" and said in found.detail, found


def each(change: Callable[[dict[str, Any]], None]) -> Callable[[Stream], Stream]:
    def all_events(stream: Stream) -> Stream:
        for number, event in enumerate(stream.events):
            event["number"] = number
            change(event)
        return stream

    return all_events


def no_index(event: dict[str, Any]) -> None:
    for choice in event["choices"]:
        for piece in choice["delta"].get("tool_calls") or ():
            piece.pop("index")


def twice(event: dict[str, Any]) -> None:
    for choice in event["choices"]:
        choice["delta"] |= {"reasoning": "x", "reasoning_content": "x"}


@pytest.mark.parametrize(
    ("change", "name", "said"),
    [
        (lambda s: replace(s, done=False), "form of a stream", "[DONE]"),
        (lambda s: replace(s, events=s.events[1:]), "form of a stream", "no role"),
        (lambda s: replace(s, events=s.events[:-1]), "form of a stream", "finish reasons []"),
        (each(lambda e: e.update(id=e["number"])), "form of a stream", "id changes"),
        (each(lambda e: e.update(object="x")), "form of a stream", "not a chat.completion.chunk"),
        (each(lambda e: e.update(usage={"total_tokens": 1})), "usage when asked for", "unasked"),
        (each(twice), "one name for reasoning", "two names"),
        (each(no_index), "calls in a stream", "no index"),
    ],
)
def test_streams_that_are_wrong_are_caught(
    change: Callable[[Stream], Stream], name: str, said: str, url: str
) -> None:
    found = verdict(Liar(url, stream=change), name)
    assert found.verdict == "fail" and said in found.detail, found


@pytest.mark.parametrize(
    ("change", "status", "said"),
    [
        (lambda data: {"detail": [{"msg": "x"}]}, None, "not {'error'"),
        (lambda data: data, 422, "status 422, not 400"),
        (changing("error", "code", to=400), None, "clients compare text"),
        (changing("error", "message", to="Traceback (most recent call last)"), None, "traceback"),
        (changing("error", "type", to=None), None, "error.type"),
    ],
)
def test_errors_of_another_form_are_caught(
    change: Callable[[Any], Any], status: int | None, said: str, url: str
) -> None:
    found = verdict(Liar(url, answer=change, status=status), "one form")
    assert found.verdict == "fail" and said in found.detail, found


def test_what_is_not_there(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """An optional route that is missing is no failure; a needed one is."""
    gone = Liar(url)
    gone.post = lambda path, body: Answer(404, {}, "{}", {})  # type: ignore[method-assign]
    assert verdict(gone, "floats and base64").verdict == "absent"
    error = {"error": {"message": "no tools here", "type": "invalid_request_error", "code": "unsupported"}}
    gone.post = lambda path, body: Answer(400, {}, "{}", error)  # type: ignore[method-assign]
    told = verdict(gone, "a call that must be made")
    assert told.verdict == "absent" and "no tools here" in told.detail, "refused clearly is no broken promise"
    gone.post = lambda path, body: Answer(404, {}, "{}", {})  # type: ignore[method-assign]
    assert verdict(gone, "form of an answer").verdict == "fail"
    assert "no check has that" in fails(capsys, "doctor", url, "--only", "nonsense")
    assert "give a server's address" in fails(capsys, "doctor", "runs/model")
    assert "is the server running" in fails(capsys, "doctor", "http://127.0.0.1:9")


def test_the_table(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    call("doctor", url, "--only", "usage")
    out = capsys.readouterr().out
    assert (
        out.splitlines()[0] == "chat" and "  ok     usage" in out and "2 kept, 0 broken, 0 not offered" in out
    )
    shown = grading.table([Finding("a", "x", "fail", "why"), Finding("a", "y", "absent")])
    assert shown == "a\n  FAIL   x  why\n  absent y\n0 kept, 1 broken, 1 not offered"
    assert not grading.as_json([Finding("a", "x", "fail")])["passed"]
