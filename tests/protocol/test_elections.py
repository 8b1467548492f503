"""`votes` and `process` over HTTP: tables by hand, streams, and what is refused."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest

from coterie.hosting.host import Host
from coterie.serve.server import ServerThread
from tests.serve.scripted import follow
from tests.serve.support import ASK, call, service

CHAT = "/v1/chat/completions"
SAID = ["<think>\n1 + 1 = 2\nso 3\n</think>\n\nAnswer: 2", "Answer: 3", "Answer: 2", "hm"]
BODY: dict[str, Any] = {"model": "tiny", "messages": ASK, "temperature": 0.7, "max_tokens": 100}


@pytest.fixture(scope="module")
def polling() -> Iterator[ServerThread]:
    turns = itertools.cycle(SAID)
    with ServerThread(Host.of(follow(service(), lambda prompt, held: next(turns)))) as running:
        yield running


def test_replies_elect_one(polling: ServerThread) -> None:
    status, _, found = call(polling.url, "POST", CHAT, {**BODY, "votes": 4, "vote_rule": "answer"})
    assert status == 200, found
    (choice,) = found["choices"]
    votes = choice["votes"]
    assert choice["message"]["content"] == "Answer: 2" and choice["finish_reason"] == "stop"
    assert [(row["answer"], row["count"], row["share"]) for row in votes["table"]] == [
        ("2", 2, 0.5),
        ("3", 1, 0.25),
    ]
    assert (votes["answer"], votes["majority"], votes["unanswered"], votes["of"]) == ("2", False, 1, 4)
    assert votes["says"] == "no majority: 2 of 4 replies answer 2" and votes["rule"] == "answer"
    assert votes["table"][1]["example"] == "Answer: 3" and votes["table"][1]["mean_logprob"] < 0
    alone = [call(polling.url, "POST", CHAT, BODY)[2]["usage"] for _ in SAID]
    assert found["usage"]["completion_tokens"] == sum(one["completion_tokens"] for one in alone)
    assert found["usage"]["prompt_tokens"] == alone[0]["prompt_tokens"], "one prompt, read once"


def test_a_stream_tells_progress_and_then_the_elected_reply(polling: ServerThread) -> None:
    asked = {**BODY, "votes": 4, "vote_rule": "answer", "stream": True}
    _, _, text = call(polling.url, "POST", CHAT, asked)
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: {")]
    choices = [choice for line in lines for choice in json.loads(line)["choices"]]
    told = [choice["votes"] for choice in choices if "votes" in choice]
    assert [one["done"] for one in told[:-1]] == sorted({one["done"] for one in told[:-1]})
    assert all(one["of"] == 4 for one in told) and told[-1]["answer"] == "2"
    first = next(place for place, choice in enumerate(choices) if choice["delta"])
    assert all("done" in choice["votes"] for choice in choices[:first])
    assert {choice["index"] for choice in choices} == {0}
    words = "".join(choice["delta"].get("content", "") for choice in choices)
    assert words == "Answer: 2" and choices[-1]["finish_reason"] == "stop"
    assert [choice["finish_reason"] for choice in choices[:-1]] == [None] * (len(choices) - 1)


@pytest.mark.parametrize(
    ("more", "where"),
    [
        ({"votes": 1}, "/votes"),
        ({"votes": 65}, "/votes"),
        ({"votes": 2, "n": 2}, "/votes"),
        ({"votes": 2, "temperature": 0}, "/votes"),
        ({"votes": 2, "tools": [{"type": "function", "function": {"name": "f"}}]}, "/votes"),
        ({"vote_rule": "answer"}, "/vote_rule"),
        ({"votes": 2, "vote_rule": "best"}, "/vote_rule"),
    ],
)
def test_what_cannot_be_voted_on_is_refused(polling: ServerThread, more: Any, where: str) -> None:
    status, _, found = call(polling.url, "POST", CHAT, {**BODY, **more})
    assert (status, found["error"]["param"]) == (400, where), found


@pytest.mark.parametrize("stream", [False, True])
def test_the_process_of_a_reply(stream: bool) -> None:
    made = follow(service(), lambda prompt, held: SAID[0])
    with ServerThread(Host.of(made)) as running:
        status, _, found = call(running.url, "POST", CHAT, {**BODY, "process": True, "stream": stream})
        _, _, plain = call(running.url, "POST", CHAT, BODY)
    assert status == 200 and "process" not in plain["choices"][0]
    if stream:
        lines = [line.removeprefix("data: ") for line in found.splitlines() if line.startswith("data: {")]
        (process,) = (choice["process"] for line in lines for choice in json.loads(line)["choices"]
                      if "process" in choice)  # fmt: skip
    else:
        process = found["choices"][0]["process"]
    assert [(step["part"], step["text"]) for step in process["steps"]] == [
        ("reasoning", "1 + 1 = 2"),
        ("reasoning", "so 3"),
        ("content", "Answer: 2"),
    ]
    assert process["checks"] == {"right": 1, "wrong": 0}
    assert sum(step["tokens"] for step in process["steps"]) == plain["usage"]["completion_tokens"]
    assert all(step["mean_logprob"] < 0 for step in process["steps"])
