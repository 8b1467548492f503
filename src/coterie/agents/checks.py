"""What a check of a server is, the client that checks ask with, and the registry they are entered in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from coterie.config.json_text import JsonError, parse_json
from coterie.remote.client import Answer, Endpoint, sse_data


class Failed(Exception):
    """The server broke a promise; the message says how."""


class Absent(Exception):
    """The server does not offer something, and its answer says so."""


@dataclass(frozen=True)
class Stream:
    """A stream as it came: the `data` of each event; `done`: whether `[DONE]` ended it."""

    status: int
    headers: Mapping[str, str]
    events: list[Any]
    done: bool

    @property
    def deltas(self) -> list[dict[str, Any]]:
        """The deltas of the first choice, in order."""
        return [
            c.get("delta") or {} for e in self.events for c in e.get("choices") or () if c.get("index") == 0
        ]

    @property
    def text(self) -> str:
        """The content of the first choice, put together."""
        return "".join(delta.get("content") or "" for delta in self.deltas)


class Client:
    """Sends the requests of checks to a server. `model`: the name that requests carry."""

    def __init__(self, endpoint: Endpoint, model: str) -> None:
        self.endpoint = endpoint
        self.model = model

    def send(
        self,
        method: str,
        path: str,
        body: Any = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send one request and return the answer, whatever its status; a stream is read to its end."""
        return self.endpoint.request(method, path, body, content, headers)

    def post(self, path: str, body: Any) -> Answer:
        """Send one body as JSON and return the answer, whatever its status."""
        return self.send("POST", path, body)

    def chat(self, content: str = "Hello", **fields: Any) -> Answer:
        """Ask for a chat completion of one message; by default greedy and short."""
        return self.post("/v1/chat/completions", self.chat_body(content, **fields))

    def chat_body(self, content: str = "Hello", **fields: Any) -> dict[str, Any]:
        """The body of `chat`; a field given as None is left out."""
        messages = [{"role": "user", "content": content}]
        body = {"model": self.model, "messages": messages, "temperature": 0, "max_tokens": 8} | fields
        return {key: value for key, value in body.items() if value is not None}

    def complete(self, prompt: Any, **fields: Any) -> Answer:
        """Ask for a completion of a prompt; by default greedy and short."""
        body = {"model": self.model, "prompt": prompt, "temperature": 0, "max_tokens": 8} | fields
        return self.post("/v1/completions", {key: value for key, value in body.items() if value is not None})

    def stream(self, body: Mapping[str, Any]) -> Stream:
        """Ask for a chat completion as a stream.

        Raises `Failed` for another status than 200, and for an answer that is not an event stream.
        """
        asked = {**body, "stream": True}
        with self.endpoint.streaming("/v1/chat/completions", asked) as (status, headers, data):
            if status != 200:
                raise Failed(f"status {status} for a stream")
            kind = headers.get("content-type", "")
            if not kind.startswith("text/event-stream"):
                raise Failed(f"a stream is sent as {kind or 'nothing'}, not text/event-stream")
            events: list[Any] = []
            for item in data:
                if item == "[DONE]":
                    return Stream(status, headers, events, True)
                events.append(_event(item))
            return Stream(status, headers, events, False)


@dataclass(frozen=True)
class Check:
    """One promise to test. `needed`: clients break without it, so a server must offer it.

    `run` returns nothing, or a remark, when the server keeps the promise; it raises `Failed` or `Absent`
    otherwise.
    """

    area: str
    name: str
    needed: bool
    run: Callable[[Client], str | None]


CHECKS: list[Check] = []


def check(
    area: str, name: str, needed: bool = True
) -> Callable[[Callable[[Client], str | None]], Callable[[Client], str | None]]:
    """Enter the decorated function in `CHECKS`."""

    def register(function: Callable[[Client], str | None]) -> Callable[[Client], str | None]:
        CHECKS.append(Check(area, name, needed, function))
        return function

    return register


def expect(true: Any, otherwise: str) -> None:
    """Raises `Failed` with the message `otherwise` unless `true` is true."""
    if not true:
        raise Failed(otherwise)


def ok(answer: Answer, what: str) -> Any:
    """The JSON object of an answer with status 200.

    Raises `Absent` for the statuses of a missing route (404, 405, 501), `Failed` for any other.
    """
    if answer.status in (404, 405, 501):
        raise Absent(f"{what}: status {answer.status}")
    expect(answer.status == 200, f"{what}: status {answer.status}: {answer.text[:160]}")
    expect(isinstance(answer.data, dict), f"{what}: the answer is not a JSON object")
    return answer.data


def ignored(answer: Answer, field: str) -> bool:
    """Whether a header of the answer names the field as ignored."""
    return any(field in value for key, value in answer.headers.items() if "ignored" in key.lower())


def honoured(answer: Answer, what: str, *fields: str) -> Any:
    """The JSON object of an answer to a request with fields that a server need not know.

    Raises `Absent` when the server refuses the request or names one of the fields as ignored; otherwise as
    `ok` does.
    """
    if answer.status in (400, 422):
        raise Absent(f"{what} is refused: {_short(answer)}")
    data = ok(answer, what)
    for field in fields:
        if ignored(answer, field):
            raise Absent(f"{what}: named as ignored")
    return data


def events(answer: Answer, what: str) -> list[Any]:
    """The JSON objects of a stream that was read to its end: server-sent events, or one object a line.

    Raises `Absent` and `Failed` as `ok` does, `Failed` for another kind of answer.
    """
    if answer.status != 200:
        ok(answer, what)
    if "ndjson" in answer.headers.get("content-type", ""):
        return [_event(line) for line in answer.text.splitlines() if line.strip()]
    kind = answer.headers.get("content-type", "nothing")
    expect(kind.startswith("text/event-stream"), f"{what}: a stream is sent as {kind}")
    data = sse_data(iter([answer.text.encode()]))
    return [_event(item) for item in data if item != "[DONE]"]


def refused(answer: Answer, what: str, *statuses: int) -> Mapping[str, Any]:
    """The error object of a refusal with one of `statuses` (by default 400).

    Raises `Failed` when the request was not refused, and for an error that is not in OpenAI's form.
    """
    expected = statuses or (400,)
    wanted = " or ".join(map(str, expected))
    expect(answer.status in expected, f"{what}: status {answer.status}, not {wanted}")
    error = answer.data.get("error") if isinstance(answer.data, Mapping) else None
    if not isinstance(error, Mapping):
        raise Failed(f"{what}: the error is not {{'error': {{...}}}}: {answer.text[:120]}")
    for field in ("message", "type"):
        expect(isinstance(error.get(field), str), f"{what}: error.{field} is not text")
    code = error.get("code")
    expect(isinstance(code, str | None), f"{what}: error.code is {code!r}; clients compare text")
    expect("Traceback" not in answer.text, f"{what}: the error shows a traceback")
    return error


def _short(answer: Answer) -> str:
    error = answer.data.get("error") if isinstance(answer.data, Mapping) else None
    message = error.get("message") if isinstance(error, Mapping) else error
    return str(message or answer.text)[:160]


def _event(text: str) -> Any:
    try:
        found = parse_json(text)
    except JsonError as error:
        raise Failed(f"an event {error}: {text[:120]}") from None
    expect(isinstance(found, dict), f"an event is not a JSON object: {text[:120]}")
    return found
