"""Grading a server that speaks the OpenAI API: what a check is, how checks are run, and how the outcome is
shown.

The contract is the one that `coterie serve` keeps: what is asked for is done or refused, never left out in
silence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from coterie.remote.client import Answer, Endpoint, EndpointError

Verdict = Literal["pass", "fail", "absent"]
SIGNS = {"pass": "ok", "fail": "FAIL", "absent": "absent"}


class Failed(Exception):
    """A promise that was not kept; the message says how."""


class Absent(Exception):
    """Something that the server does not offer, and says so."""


@dataclass(frozen=True)
class Finding:
    """The outcome of one check. `needed`: clients break without it; `absent` is then a failure."""

    area: str
    name: str
    verdict: Verdict
    detail: str = ""


@dataclass(frozen=True)
class Stream:
    """A stream as it came: the `data` of each event, `[DONE]` included."""

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


class Probe:
    """What checks ask a server with. `model`: the name that requests carry."""

    def __init__(self, endpoint: Endpoint, model: str) -> None:
        self.endpoint = endpoint
        self.model = model

    def post(self, path: str, body: Any) -> Answer:
        """One call; the answer whatever its status."""
        return self.endpoint.request("POST", path, body)

    def chat(self, content: str = "Hello", **fields: Any) -> Answer:
        """A chat completion of one message; by default greedy and short."""
        return self.post("/v1/chat/completions", self.chat_body(content, **fields))

    def chat_body(self, content: str = "Hello", **fields: Any) -> dict[str, Any]:
        """The body of `chat`; a field given as None is left out."""
        messages = [{"role": "user", "content": content}]
        body = {"model": self.model, "messages": messages, "temperature": 0, "max_tokens": 8} | fields
        return {key: value for key, value in body.items() if value is not None}

    def complete(self, prompt: Any, **fields: Any) -> Answer:
        """A completion of a prompt; by default greedy and short."""
        body = {"model": self.model, "prompt": prompt, "temperature": 0, "max_tokens": 8} | fields
        return self.post("/v1/completions", {key: value for key, value in body.items() if value is not None})

    def stream(self, body: Mapping[str, Any]) -> Stream:
        """A chat completion as a stream. Raises `Failed` for another status than 200 or what is no event
        stream.
        """
        with self.endpoint.streaming("/v1/chat/completions", {**body, "stream": True}) as (
            status,
            headers,
            data,
        ):
            if status != 200:
                raise Failed(f"status {status} for a stream")
            kind = headers.get("content-type", "")
            if not kind.startswith("text/event-stream"):
                raise Failed(f"a stream is sent as {kind or 'nothing'}, not text/event-stream")
            events: list[Any] = []
            for item in data:
                if item == "[DONE]":
                    return Stream(status, headers, events, True)
                events.append(_object(item))
            return Stream(status, headers, events, False)


Check = Callable[[Probe], str | None]
CHECKS: list[tuple[str, str, bool, Check]] = []


def check(area: str, name: str, needed: bool = True) -> Callable[[Check], Check]:
    """Register a check: it returns nothing (or a remark) when all is well, and raises `Failed` or
    `Absent`.
    """

    def register(function: Check) -> Check:
        CHECKS.append((area, name, needed, function))
        return function

    return register


def grade(endpoint: Endpoint, model: str | None = None, only: str | None = None) -> Iterator[Finding]:
    """Run the checks whose area or name holds `only`, one by one. Errors: `EndpointError` when nobody
    answers.
    """
    from coterie.agents import checks_chat, checks_wire  # noqa: F401 - they register themselves

    probe = Probe(endpoint, model or endpoint.models()[0])
    for area, name, needed, function in CHECKS:
        if only is None or only in f"{area} {name}":
            yield run_check(probe, area, name, needed, function)


def run_check(probe: Probe, area: str, name: str, needed: bool, function: Check) -> Finding:
    """One check's finding; a connection that breaks is a failure of the check."""
    try:
        return Finding(area, name, "pass", function(probe) or "")
    except Absent as absent:
        return Finding(area, name, "fail" if needed else "absent", str(absent))
    except (Failed, EndpointError) as failed:
        return Finding(area, name, "fail", " ".join(str(failed).split()))
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as malformed:
        return Finding(
            area, name, "fail", f"the answer has another form ({type(malformed).__name__}: {malformed})"
        )


def table(findings: list[Finding]) -> str:
    """The findings for people, by area, and a count at the end."""
    lines, area = [], ""
    for finding in findings:
        if finding.area != area:
            area = finding.area
            lines.append(area)
        detail = f"  {finding.detail}" if finding.detail else ""
        lines.append(f"  {SIGNS[finding.verdict]:<7}{finding.name}{detail}")
    counts = {verdict: sum(f.verdict == verdict for f in findings) for verdict in SIGNS}
    lines.append(f"{counts['pass']} kept, {counts['fail']} broken, {counts['absent']} not offered")
    return "\n".join(lines)


def as_json(findings: list[Finding]) -> dict[str, Any]:
    """The findings for machines."""
    return {
        "passed": not any(f.verdict == "fail" for f in findings),
        "findings": [asdict(f) for f in findings],
    }


def expect(true: Any, otherwise: str) -> None:
    """Raises `Failed` when something does not hold."""
    if not true:
        raise Failed(otherwise)


def ok(answer: Answer, what: str) -> Any:
    """The JSON of a good answer. Raises `Failed` for any other, `Absent` for a route that is not there."""
    if answer.status in (404, 405, 501):
        raise Absent(f"{what}: status {answer.status}")
    expect(answer.status == 200, f"{what}: status {answer.status}: {answer.text[:160]}")
    expect(isinstance(answer.data, dict), f"{what}: the answer is no JSON object")
    return answer.data


def refused(answer: Answer, what: str, *statuses: int) -> Mapping[str, Any]:
    """The error of a refusal, whose form is checked. Raises `Failed` when it was not refused, or in another
    form.
    """
    expect(
        answer.status in (statuses or (400,)),
        f"{what}: status {answer.status}, not {' or '.join(map(str, statuses or (400,)))}",
    )
    error = answer.data.get("error") if isinstance(answer.data, Mapping) else None
    expect(isinstance(error, Mapping), f"{what}: the error is not {{'error': {{...}}}}: {answer.text[:120]}")
    assert isinstance(error, Mapping)
    for field in ("message", "type"):
        expect(isinstance(error.get(field), str), f"{what}: error.{field} is not text")
    expect(
        isinstance(error.get("code"), str | None),
        f"{what}: error.code is {error.get('code')!r}; clients compare text",
    )
    expect("Traceback" not in answer.text, f"{what}: the error shows a traceback")
    return error


def _object(text: str) -> Any:
    import json

    try:
        found = json.loads(text)
    except ValueError:
        raise Failed(f"an event is not JSON: {text[:120]}") from None
    expect(isinstance(found, dict), f"an event is no JSON object: {text[:120]}")
    return found
