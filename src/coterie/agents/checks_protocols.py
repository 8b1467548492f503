"""Checks over several protocols: the same prompt, errors of streams, what templates leave out, browsers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from coterie.agents import checks_messages, checks_ollama
from coterie.agents.checks import Absent, Client, Failed, check, events, expect, ignored, ok
from coterie.agents.checks_chat import TOOL
from coterie.remote.client import Answer

HISTORY = [
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hello. How can I help?"},
    {"role": "user", "content": "Tell me about cats."},
]
ORIGIN = "https://coterie-doctor.example"


def _chat_tokens(client: Client, messages: Any, **fields: Any) -> int:
    return int(ok(client.chat(messages=messages, **fields), "chat")["usage"]["prompt_tokens"])


def _responses_tokens(client: Client, messages: Any) -> int:
    body = {"model": client.model, "input": messages, "max_output_tokens": 1, "store": False}
    answer = client.post("/v1/responses", body)
    if answer.status != 200:
        raise Absent(f"/v1/responses: status {answer.status}")
    return int(answer.data["usage"]["input_tokens"])


OTHERS: dict[str, Callable[[Client, Any], int]] = {
    "responses": _responses_tokens,
    "messages": checks_messages.prompt_tokens,
    "ollama": checks_ollama.prompt_tokens,
}


@check("protocols", "the same prompt in each", needed=False)
def same_prompt(client: Client) -> str:
    """One conversation has as many prompt tokens in every protocol that the server offers."""
    counts = {"chat": _chat_tokens(client, HISTORY)}
    for name, count in OTHERS.items():
        try:
            counts[name] = count(client, HISTORY)
        except Absent:
            continue
    if len(counts) == 1:
        raise Absent("the server speaks one protocol")
    expect(len(set(counts.values())) == 1, f"prompt tokens differ: {counts}")
    return ", ".join(counts)


@check("errors", "streams that cannot begin")
def no_stream(client: Client) -> None:
    """A request for a stream that is wrong gets a status, or an error as the stream's last event."""
    wrong: dict[str, Any] = {"model": client.model, "stream": True, "temperature": "hot"}
    for path, fields in (
        ("/v1/chat/completions", {"messages": HISTORY}),
        ("/v1/completions", {"prompt": "x"}),
        ("/v1/responses", {"input": "x"}),
        ("/v1/messages", {"messages": HISTORY, "max_tokens": 8}),
    ):
        answer = client.send("POST", path, wrong | fields, headers=checks_messages.HEADERS)
        if answer.status in (404, 405, 501) and path != "/v1/chat/completions":
            continue
        if answer.status == 200:
            last = (events(answer, path) or [{}])[-1]
            expect("error" in last or last.get("type") in ("error", "response.failed"), f"{path}: no error")
        else:
            expect(answer.status in (400, 422), f"{path}: status {answer.status}, not 400")


@check("nothing silent", "what a stream leaves out", needed=False)
def named_in_streams(client: Client) -> None:
    """What a plain answer names as ignored, a stream names too."""
    body = client.chat_body(metadata={"purpose": "doctor"}, service_tier="auto")
    if not ignored(client.post("/v1/chat/completions", body), "metadata"):
        raise Absent("no header names fields as ignored")
    answer = client.post("/v1/chat/completions", body | {"stream": True})
    inside = any("metadata" in names for names in _left_out(answer))
    expect(ignored(answer, "metadata") or inside, "'metadata' is named in a plain answer and not in a stream")


def _left_out(answer: Answer) -> list[Any]:
    """The lists of ignored fields in a stream's events."""
    return [event[key] for event in events(answer, "stream") for key in event if "ignored" in key]


@check("nothing silent", "what the template shows")
def shown(client: Client) -> str | None:
    """Tools, their results, reasoning and a system message reach the prompt, or are named or refused."""
    call = {"id": "call00001", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}
    asked = HISTORY[:1]
    called = {"role": "assistant", "content": "", "tool_calls": [call]}
    result = {"role": "tool", "tool_call_id": "call00001", "content": "It is sunny and warm."}
    thought = {"role": "assistant", "content": "Rome.", "reasoning_content": "I should look at the weather."}
    trials: dict[str, tuple[list[Any], list[Any], dict[str, Any]]] = {
        "tools": (asked, asked, {"tools": [TOOL]}),
        "messages.system": (asked, [{"role": "system", "content": "You are a sailor."}, *asked], {}),
        "messages.tool": ([*asked, called], [*asked, called, result], {}),
        "messages.reasoning_content": (
            [*asked, thought | {"reasoning_content": None}],
            [*asked, thought],
            {},
        ),
    }
    missing = [name for name, trial in trials.items() if not _reaches(client, name, *trial)]
    return f"named or refused, as the template leaves it out: {', '.join(missing)}" if missing else None


def _reaches(client: Client, name: str, less: list[Any], more: list[Any], fields: dict[str, Any]) -> bool:
    """Whether a part makes the prompt longer. Errors: `Failed` when it is dropped without a word."""
    before = _chat_tokens(client, less)
    answer = client.chat(messages=more, **fields)
    if answer.status in (400, 422):
        return False
    if ok(answer, name)["usage"]["prompt_tokens"] > before:
        return True
    if not ignored(answer, name):
        raise Failed(f"'{name}' was accepted and does not reach the prompt; nothing says so")
    return False


@check("browsers", "pages of other origins", needed=False)
def preflight(client: Client) -> str:
    """Reports who may call from a browser; neither answer breaks a promise."""
    asked = {
        "origin": ORIGIN,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type",
    }
    answer = client.send("OPTIONS", "/v1/chat/completions", headers=asked)
    allowed = answer.headers.get("access-control-allow-origin")
    if allowed in ("*", ORIGIN):
        return "any page may call this server"
    return "pages of an unknown origin may not call"
