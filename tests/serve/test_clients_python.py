"""Released Python clients, each in its own environment, against one server (slow).

Chat, stream, a tool called in two turns before the answer, structured output, and hanging up.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from coterie.serve.server import ServerThread
from tests.clients import Watch, play

pytestmark = pytest.mark.slow
TOLD = "The tool said: 987 and 987"  # both results came back to the model

# Client, script, API: the parts are called API, "API stream", "API tools" and so on.
TALKING = [
    ("openai", "openai_python.py", "chat"),
    ("openai", "openai_python.py", "responses"),
    ("anthropic", "anthropic_python.py", "messages"),
    ("ollama", "ollama_python.py", "chat"),
    ("litellm", "litellm_python.py", "chat"),
    ("litellm-old", "litellm_python.py", "chat"),
    ("pydantic-ai", "pydantic_ai_python.py", "chat"),
    ("pydantic-ai", "pydantic_ai_python.py", "responses"),
]
IDS = [f"{client}-{api}" for client, _, api in TALKING]
each = pytest.mark.parametrize(("client", "script", "api"), TALKING, ids=IDS)


def is_dog(found: Any) -> bool:
    return set(found) == {"name", "age"} and found["name"] in ("Rex", "Fido") and found["age"] in range(1, 10)


@each
def test_a_stream_says_what_the_plain_reply_says(
    client: str, script: str, api: str, scripted_server: ServerThread, tmp_path: Path
) -> None:
    plain, streamed = (
        play(client, script, api + part, scripted_server.url, tmp_path) for part in ("", " stream")
    )
    assert plain and plain == streamed


@each
def test_tools_over_three_turns(
    client: str, script: str, api: str, scripted_server: ServerThread, tmp_path: Path
) -> None:
    assert play(client, script, f"{api} tools", scripted_server.url, tmp_path) == TOLD


@each
def test_structured_output(
    client: str, script: str, api: str, scripted_server: ServerThread, tmp_path: Path
) -> None:
    assert is_dog(play(client, script, f"{api} structured", scripted_server.url, tmp_path))


@each
def test_hanging_up_ends_the_reply(
    client: str, script: str, api: str, scripted_server: ServerThread, tmp_path: Path
) -> None:
    with Watch(scripted_server):
        assert play(client, script, f"{api} cancel", scripted_server.url, tmp_path)


@pytest.mark.parametrize(
    "mode",
    "FUNCTIONS TOOLS TOOLS_STRICT JSON JSON_SCHEMA MD_JSON PARALLEL_TOOLS RESPONSES_TOOLS".split(),
)
def test_instructor_gets_its_object(mode: str, scripted_server: ServerThread, tmp_path: Path) -> None:
    found = play("instructor", "instructor_python.py", mode, scripted_server.url, tmp_path)
    assert all(map(is_dog, found)) and found if mode == "PARALLEL_TOOLS" else is_dog(found)


def test_instructor_shows_an_object_as_it_grows(scripted_server: ServerThread, tmp_path: Path) -> None:
    grown, last = play("instructor", "instructor_python.py", "partial", scripted_server.url, tmp_path)
    assert grown > 2 and is_dog(last)
    with Watch(scripted_server):
        assert play("instructor", "instructor_python.py", "cancel", scripted_server.url, tmp_path) == "left"


@pytest.mark.parametrize("client", ["litellm", "litellm-old"])
def test_litellm_reads_responses(client: str, scripted_server: ServerThread, tmp_path: Path) -> None:
    said, chat = (
        play(client, "litellm_python.py", part, scripted_server.url, tmp_path)
        for part in ("responses", "chat")
    )
    assert said and said == chat


def test_anthropic_counts_parses_and_names_errors(scripted_server: ServerThread, tmp_path: Path) -> None:
    def part(name: str) -> Any:
        return play("anthropic", "anthropic_python.py", f"messages {name}", scripted_server.url, tmp_path)

    assert is_dog(part("parsed"))
    before, then = part("counted")
    assert before == then > 0
    envelope, kind, message = part("refused")
    assert (envelope, kind) == ("error", "invalid_request_error") and "max_tokens" in message


def test_ollama_lists_generates_and_embeds(scripted_server: ServerThread, tmp_path: Path) -> None:
    def part(name: str) -> Any:
        return play("ollama", "ollama_python.py", name, scripted_server.url, tmp_path)

    assert part("generate") == part("generate stream") == part("chat")
    listed = part("listed")
    assert any(name.split(":")[0] == "tiny" for name in listed["names"]) and listed["running"]
    assert "tools" in listed["capabilities"] and listed["context"] == [65_536]
    assert part("embedded") == [32, 32]
    status, message = part("refused")
    assert status == 404 and "nobody" in message
