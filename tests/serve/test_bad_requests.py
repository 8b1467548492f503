"""Broken, wrong, huge and malicious bodies: every endpoint refuses them soon, in the form of its protocol."""

# ruff: noqa: E501  # tables, one body after another

from __future__ import annotations

import re
import time
from typing import Any

import pytest
from starlette.routing import Route

from coterie.protocol.received import naming
from coterie.serve.app import routes
from coterie.serve.server import ServerThread
from tests.protocol.test_requests import BROKEN
from tests.serve.protocols import OTHERS, STATE, WRITE, Body, Line
from tests.serve.support import (
    call,
    error_of,
)


@pytest.mark.parametrize("path", [*WRITE, *OTHERS, *STATE])
def test_broken_bodies_have_the_error_of_their_protocol(path: str, server: ServerThread) -> None:
    for kind, sent in BROKEN.items():
        if kind == "long":
            continue  # the same for all: `test_protocol.py`
        begun = time.monotonic()
        status, data = Line(server).post(path, sent)
        assert status == 400 and error_of(path, data), (kind, data)
        assert time.monotonic() - begun < 3, kind
    for headers, status in (
        ({"content_type": "text/plain"}, 415),
        ({"content_type": "application/x-www-form-urlencoded", "origin": server.url}, 415),
        ({"content_encoding": "gzip"}, 415),
        ({"content_length": str(2**40)}, 413),
    ):
        found, data = Line(server).post(path, b"{}", **headers)
        assert found == status and error_of(path, data), (headers, data)


LENGTHS = ("max_tokens", "max_output_tokens", "options")
WRONG = [None, True, -1, 2**70, 0.5, "x", [], [[]], {}, [None], {"a": None}, "\0", [{"type": "x"}] * 3]


@pytest.mark.parametrize("path", [*WRITE, *OTHERS])
def test_wrong_types_are_told_in_the_form_of_the_protocol(path: str, server: ServerThread) -> None:
    body: Body = {"model": "tiny", **OTHERS.get(path, {})}
    body = WRITE[path]("Hi", 1, False) if path in WRITE else body
    line, statuses = Line(server), set()
    for name in body.keys() - {"stream"}:
        for value in WRONG:
            if name in LENGTHS and value in (None, -1, {}, {"a": None}):
                continue  # a reply as long as the context
            status, data = line.post(path, {**body, name: value})
            assert status in (200, 400, 404), (name, value, data)
            assert status == 200 or error_of(path, data)
            statuses.add(status)
    assert 400 in statuses


HUGE: dict[str, list[Body]] = {
    "/v1/chat/completions": [{"n": 10**6}, {"top_logprobs": 10**5, "logprobs": True}, {"max_tokens": 2**31},
                             {"stop": ["x"] * 10**4}, {"stop": ""}, {"logit_bias": {str(i): 1 for i in range(10**5)}}],
    "/v1/completions": [{"n": 10**6}, {"best_of": 10**6}, {"logprobs": 10**5}, {"max_tokens": 2**31},
                        {"prompt_logprobs": 10**5}, {"stop": ["x"] * 10**4}, {"prompt": ["x"] * 10**5},
                        {"stop_token_ids": [1] * 10**5}, {"min_tokens": 2**31}],
    "/v1/responses": [{"top_logprobs": 10**5}, {"max_output_tokens": 2**31},                       {"logit_bias": {str(i): 1 for i in range(10**5)}}, {"input": []}],
    "/v1/messages": [{"max_tokens": 2**31}, {"stop_sequences": ["x"] * 10**4}, {"stop_sequences": [""]}, {"top_k": 2**40},
                     {"logit_bias": {str(i): 1 for i in range(10**5)}}, {"messages": []}, {"max_tokens": 0}],
    "/api/chat": [{"options": {"num_predict": 2**31}}, {"options": {"stop": ["x"] * 10**4}}, {"options": {"stop": [""]}},
                  {"top_logprobs": 10**5, "logprobs": True}, {"options": {"top_k": 2**40}}],
    "/api/generate": [{"options": {"num_predict": 2**31}}, {"top_logprobs": 10**5, "logprobs": True}],
    "/v1/embeddings": [{"input": ["x"] * 10**5}, {"dimensions": 2**40}],
    "/v1/rerank": [{"documents": ["x"] * 10**5}, {"top_n": -1}, {"documents": []}],
    "/v1/score": [{"text_2": ["x"] * 10**5}],
    "/api/embed": [{"input": ["x"] * 10**5}, {"dimensions": 2**40}],
}  # fmt: skip


@pytest.mark.parametrize("path", HUGE)
def test_huge_numbers_are_refused(path: str, server: ServerThread) -> None:
    body = WRITE[path]("Hi", 1, False) if path in WRITE else {"model": "tiny", **OTHERS[path]}
    for more in HUGE[path]:
        begun = time.monotonic()
        status, data = Line(server).post(path, {**body, **more})
        assert status == 400 and error_of(path, data), (list(more), status, data)
        assert time.monotonic() - begun < 5, list(more)


NAMES = [
    "../../etc/passwd",
    "/etc/passwd",
    "%2e%2e/x",
    "tiny\0",
    "tiny\u202e",
    "TINY",
    "tiny:../x",
    "x" * 4096,
]


@pytest.mark.parametrize("path", [*WRITE, *OTHERS])
def test_names_of_models_are_only_compared(path: str, server: ServerThread, monkeypatch: Any) -> None:
    body = WRITE[path]("Hi", 1, False) if path in WRITE else OTHERS[path]
    opened: list[Any] = []
    line = Line(server)
    line.post(path, {**body, "model": "tiny"})
    monkeypatch.setattr("builtins.open", lambda *given, **named: opened.append(given))
    monkeypatch.setattr("os.stat", lambda *given, **named: opened.append(given))
    found = [line.post(path, {**body, "model": name}) for name in NAMES]
    monkeypatch.undo()
    assert not opened
    for (status, data), name in zip(found, NAMES, strict=True):
        assert status == 404 or (status == 400 and len(name) > 512), (name, data)
        assert error_of(path, data)


def test_names_in_paths_are_only_compared(server: ServerThread) -> None:
    for place in ("/v1/models/", "/v1/responses/", "/v1/conversations/", "/v1/adapters/"):
        for name in ("..%2f..%2fetc%2fpasswd", "%2e%2e", "%00", "x'%20OR%201=1--", "%25", "y" * 4096):
            for method in ("GET", "DELETE"):
                status, _, data = call(server.url, method, place + name)
                assert status in (400, 403, 404, 405) and error_of(place, data), (place, name, data)


BOMBS: list[Body] = [
    {"type": "string", "pattern": "(a{1,9999}){1,9999}"},
    {"type": "string", "pattern": "a{0,1000000000}"},
    {"enum": [str(i) for i in range(10**5)]},
    {"type": "array", "items": {"type": "string"}, "minItems": 10**9},
    {"type": "string", "minLength": 10**9},
    {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}},
]


@pytest.mark.parametrize(
    "path", ["/v1/chat/completions", "/v1/responses", "/v1/messages", "/api/chat", "/api/generate"]
)
def test_schema_bombs_are_refused_soon_in_every_form(path: str, server: ServerThread) -> None:
    for number, bomb in enumerate(BOMBS):
        schema = {
            "type": "object",
            "properties": {"a": bomb},
            "required": ["a"],
            **{"$defs": bomb.get("$defs", {})},
        }
        more: Body = {
            "/v1/chat/completions": {"response_format": {
                "type": "json_schema", "json_schema": {"name": "n", "schema": schema, "strict": True}}},
            "/v1/responses": {"text": {"format": {"type": "json_schema", "name": "n", "schema": schema, "strict": True}}},
            "/v1/messages": {"output_config": {"format": {"type": "json_schema", "schema": schema}}},
        }.get(path, {"format": schema})  # fmt: skip
        begun = time.monotonic()
        status, data = Line(server).post(path, {**WRITE[path]("Hi", 1, False), **more})
        # What no grammar can enforce may be checked afterwards where the request is not strict.
        assert status in (200, 400), (number, data)
        assert status == 200 or error_of(path, data)
        assert time.monotonic() - begun < 5, number
    assert Line(server).post(path, WRITE[path]("Hi", 1, False))[0] == 200


def test_every_route_that_takes_a_body_is_walked_here() -> None:
    """A new endpoint must be added to the tables above, or named here with what walks it."""
    elsewhere = {
        "/v1/feedback": "tests/api/admin/test_feedback.py",
        "/v1/responses/{id}/cancel": "takes no body",
        "/v1/files": "tests/api/jobs/test_files.py",
        "/v1/batches": "tests/api/jobs/test_batches.py",
        "/v1/batches/{id}/cancel": "takes no body",
        "/v1/fine_tuning/jobs": "tests/api/jobs/test_fine_tuning.py",
        "/v1/fine_tuning/jobs/{id}/cancel": "takes no body",
        "/v1/conversations/{id}": "STATE",
        "/v1/conversations/{id}/items": "STATE",
    }
    aliases = {"/rerank", "/v2/rerank", "/score", "/v1/tokenize", "/v1/detokenize"}
    refusing = {"pull", "push", "create", "copy", "delete", "blobs"}
    taking = {
        route.path for route in routes() if isinstance(route, Route) and "POST" in (route.methods or ())
    }
    left = taking - WRITE.keys() - OTHERS.keys() - {*STATE} - elsewhere.keys() - aliases
    assert {path for path in left if path.split("/")[2] not in refusing} == set()


def test_the_header_of_ignored_fields_stays_small(server: ServerThread) -> None:
    body = {**WRITE["/v1/responses"]("Hi", 1, False), "include": [f"part-{i}" for i in range(10_000)]}
    status, headers, _ = call(server.url, "POST", "/v1/responses", body)
    named = headers["x-coterie-ignored"]
    assert status == 200 and len(named) < 4100 and "include:part-9," in named
    many = naming([f"field-{i}\n" for i in range(10_000)])["x-coterie-ignored"]
    assert len(many) < 4100 and re.search(r"field-99\?,.*,and \d+ more$", many)
    odd = {"a\r\nx-evil: 1": 1, "\u202e": 2}
    body = {**WRITE["/v1/chat/completions"]("Hi", 1, False), "chat_template_kwargs": odd}
    status, headers, data = call(server.url, "POST", "/v1/chat/completions", body)
    assert "x-evil" not in headers and (status == 200 or error_of("/v1", data))
