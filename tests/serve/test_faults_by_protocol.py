"""The fault list of the server for every protocol: clients that leave, failures, draining, logs, a full batch."""

# ruff: noqa: E501  # tables, one body after another

from __future__ import annotations

import http.client
import json
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from coterie.hosting.errors import draining
from coterie.infer.model import LanguageModel
from coterie.serve.server import ServerThread
from tests.serve.protocols import OTHERS, WRITE, Line
from tests.serve.support import (
    call,
    error_of,
    eventually,
    hang_up,
    idle,
    language_model,
    open_request,
    serving,
    slowed,
)

PROTOCOLS = pytest.mark.parametrize("path", WRITE)


def endless(max_positions: int = 4096) -> LanguageModel:
    """No token ends its replies."""
    model = language_model(max_positions=max_positions)
    model.stop_ids = ()
    return model


@pytest.fixture(scope="module")
def busy() -> Iterator[ServerThread]:
    """Two slots, small steps, no prefixes kept; every step takes 10 ms."""
    with serving(endless(), slots=2, max_queue=8, prefill_chunk=16, prefix_cache_mb=0) as running:
        slowed(running.service, 0.01)
        yield running


@PROTOCOLS
def test_clients_that_leave_in_a_stream_without_one_and_in_the_queue_free_everything(
    path: str, busy: ServerThread
) -> None:
    engine, thread = busy.service.engine, busy.service.thread
    before, write = thread.num_cancelled, WRITE[path]
    for stream in (True, False):
        running = [open_request(busy.url, write("Hi", 2000, stream), path) for _ in range(2)]
        eventually(lambda: engine.num_running == 2)
        if stream:
            assert all(b"200 OK" in one.recv(100) for one in running)
        waiting = [open_request(busy.url, write("Hi", 2000, stream), path) for _ in range(2)]
        eventually(lambda: thread.num_waiting == 2)
        for one in (*waiting, *running):
            hang_up(one)
        eventually(lambda: idle(busy.host), 2)
    assert thread.num_cancelled == before + 8


@PROTOCOLS
def test_a_client_that_leaves_while_its_prompt_is_read_frees_everything(
    path: str, busy: ServerThread
) -> None:
    before = busy.service.thread.num_cancelled
    leaving = open_request(busy.url, WRITE[path]("fox " * 800, 5, True), path)
    eventually(lambda: busy.service.engine.cache_bytes > 0)
    hang_up(leaving)
    eventually(lambda: idle(busy.host), 2)
    assert busy.service.thread.num_cancelled == before + 1


def last_of(received: bytes) -> dict[str, Any]:
    """The last data object of a stream that failed."""
    lines = [line for line in received.split(b"\r\n") if b"error" in line]
    last = lines[-1].strip().splitlines()[-1].removeprefix(b"data: ")
    found: dict[str, Any] = json.loads(last)
    return found


def message_of(path: str, event: dict[str, Any]) -> str:
    """What the last event of a failed stream says, in the form of the path's protocol."""
    if path == "/v1/responses":
        assert event["type"] == "error" and event["sequence_number"] > 0, event
        return str(event["message"])
    if path == "/v1/messages":
        event = {**event, "request_id": ""}  # of answers only
    return error_of(path, event)


def test_when_the_time_to_drain_is_over_every_stream_ends_with_its_own_error() -> None:
    with serving(endless(), slots=8, drain=0.2) as server:
        slowed(server.service, 0.01)
        open_streams = {
            path: open_request(server.url, write("Hi", 2000, True), path) for path, write in WRITE.items()
        }
        plain = {
            path: open_request(server.url, write("Hi", 2000, False), path) for path, write in WRITE.items()
        }
        eventually(lambda: server.service.engine.num_running == 8)
        assert all(b"200 OK" in one.recv(100) for one in [*open_streams.values()][:2])
        with ThreadPoolExecutor(1) as pool:
            ended = pool.submit(server.stop)
            for path, one in open_streams.items():
                received = b""
                while chunk := one.recv(65536):
                    received += chunk
                assert "server is" in message_of(path, last_of(received)), path
                assert not received.rstrip().endswith(b"[DONE]") and received.endswith(b"0\r\n\r\n")
            for path, one in plain.items():
                answer = http.client.HTTPResponse(one)
                answer.begin()
                assert answer.status == (529 if path == "/v1/messages" else 503)
                assert error_of(path, json.loads(answer.read())) == str(draining())
            assert ended.result() == 0


@PROTOCOLS
def test_a_failing_step_ends_a_request_without_a_path_or_a_trace(path: str, caplog: Any) -> None:
    with serving(endless()) as server:
        slowed(server.service, 0.01)
        one = open_request(server.url, WRITE[path]("Hi", 400, True), path)
        plain = open_request(server.url, WRITE[path]("Hi", 400, False), path)
        eventually(lambda: server.service.engine.num_running == 2)
        assert b"200 OK" in one.recv(100)

        def broken(*given: Any, **named: Any) -> None:
            raise RuntimeError("/private/weights: Traceback of coterie/x.py")

        server.service.engine.step = broken  # type: ignore[assignment]
        received = b""
        while chunk := one.recv(65536):
            received += chunk
        assert message_of(path, last_of(received))
        assert not any(sign in received for sign in (b"private", b"Traceback", b".py")), received
        answer = http.client.HTTPResponse(plain)
        answer.begin()
        assert answer.status >= 500 and error_of(path, json.loads(answer.read()))


def test_no_text_of_any_protocol_is_logged(server: ServerThread, caplog: Any) -> None:
    caplog.set_level(logging.DEBUG)
    line = Line(server)
    for path, write in WRITE.items():
        for stream in (True, False):
            assert call(server.url, "POST", path, write("Zanzibar", 2, stream))[0] == 200
        assert (
            line.post(path, {**write("Zanzibar", 2, False), "Zanzibar": 1, "messages": "Zanzibar"})[0] == 400
        )
    for path, body in OTHERS.items():
        named = json.loads(json.dumps({"model": "tiny", **body}).replace("Hi", "Zanzibar"))
        assert line.post(path, named)[0] == 200, path
        assert line.post(path, {**named, "model": ["Zanzibar"]})[0] == 400
    stored = line.post("/v1/conversations", {"items": [{"role": "user", "content": "Zanzibar"}]})[1]
    assert line.post(f"/v1/conversations/{stored['id']}/items", {"items": "Zanzibar"})[0] == 400
    assert "Zanzibar" not in caplog.text and "/v1/messages" in caplog.text
    assert "Zanzibar" not in call(server.url, "GET", "/metrics")[2]


def said(path: str, answer: tuple[int, dict[str, str], Any]) -> Any:
    """What a reply says, without ids and times."""
    status, _, data = answer
    assert status == 200, data
    for name in ("choices", "output", "content", "message", "response"):
        if name in data:
            found = data[name]
            return [item.get("content") for item in found] if name == "output" else found
    raise AssertionError(data)


def test_a_seeded_reply_of_any_protocol_does_not_depend_on_the_others() -> None:
    asks = [
        (path, write(text, 12, False)) for text in ("Hello", "Once upon") for path, write in WRITE.items()
    ]
    with serving(endless(512), deterministic=True, prefill_chunk=16) as server:
        alone = [said(path, call(server.url, "POST", path, body)) for path, body in asks]
        with ThreadPoolExecutor(len(asks)) as pool:
            together = list(pool.map(lambda ask: said(ask[0], call(server.url, "POST", *ask)), asks))
    assert together == alone and len({json.dumps(one) for one in alone}) >= 6
