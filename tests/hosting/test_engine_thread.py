"""Races at the ends: work submitted to an ending engine, unread answers, clients that disconnect."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest

from coterie.hosting.engine_thread import Call, Job, hand_out
from coterie.hosting.errors import ApiError
from coterie.infer.sampling import SamplingParams
from coterie.protocol import conversation, wire
from tests.serve.support import call, eventually, idle, language_model, open_request, service, serving, slowed
from tests.serve.test_server import CHAT, LONG

EMBED = {"model": "tiny", "input": ["Once", "upon"]}


def held(service) -> threading.Event:
    """Keep the engine's thread busy until the event is set."""
    met, go = threading.Event(), threading.Event()
    service.thread._post(lambda: (met.set(), go.wait(20)))
    assert met.wait(10)
    return go


def read_all(connection: socket.socket) -> bytes:
    received = b""
    while chunk := connection.recv(65536):
        received += chunk
    return received


@pytest.mark.parametrize("stream", [True, False])
def test_a_request_on_its_way_into_an_engine_that_dies_of_it_is_told(stream):
    server = serving()

    def broken(*given):
        raise SystemExit("/secret/path")

    server.service.engine.add = broken
    received = read_all(open_request(server.url, {**LONG, "stream": stream}))
    assert b"engine_dead" in received and b"secret" not in received
    assert server.stop() == 1


class Faulty:
    """A filter of tokens that fails at a given call."""

    def __init__(self, place: str) -> None:
        self.place, self.failure = place, None

    def allowed(self) -> None:
        if self.place == "allowed":
            raise RuntimeError("/secret/path")

    def accept(self, token: int) -> None:
        if self.place == "accept":
            raise RuntimeError("/secret/path")


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("place", ["allowed", "accept", "compile", "template", "add", "forward"])
def test_a_fault_ends_one_request_and_no_other(place, stream, monkeypatch):
    """A 500 with an id and no path, a log entry with the traceback, and replies that go on."""

    def broken(*given, **named):
        raise RuntimeError("/secret/path")

    with serving(slots=4) as server, ThreadPoolExecutor(1) as pool:
        slowed(server.service, 0.005)
        asked = {**LONG, "max_tokens": 60, "stream": True}
        other = pool.submit(call, server.url, "POST", CHAT, asked)
        eventually(lambda: server.service.engine.num_running == 1)
        body = {**LONG, "max_tokens": 40, "stream": stream, "response_format": {"type": "json_object"}}
        with monkeypatch.context() as patched:
            if place in ("allowed", "accept"):
                patched.setattr(conversation, "_bounded", lambda *given: Faulty(place))
            elif place == "compile":
                patched.setattr(server.service.grammars, "_compiled", broken)
            elif place == "template":
                patched.setattr(conversation, "conversation_ids", broken)
            elif place == "add":
                patched.setattr(server.service.engine, "add", broken)
            elif place == "forward":
                patched.setattr("coterie.infer.engine.feed", broken)
            status, headers, answer = call(server.url, "POST", CHAT, body)
        said = json.dumps(answer)
        assert "server_error" in said and "secret" not in said and "[DONE]" not in said
        assert status == 500 or (stream and status == 200)
        assert headers["x-request-id"].startswith("req-")
        # A pass that fails takes the replies that were in it, and only those.
        assert ("[DONE]" in str(other.result()[2])) == (place != "forward")
        assert call(server.url, "GET", "/ready")[0] == 200
        assert call(server.url, "POST", CHAT, {**LONG, "max_tokens": 2})[0] == 200


def test_what_comes_while_the_thread_ends_is_told():
    """It looks alive until it has ended, but takes nothing any more."""
    thread = service().thread
    at_end, go, fail = threading.Event(), threading.Event(), thread._fail

    def late(*given):
        at_end.set()
        go.wait(20)
        fail(*given)

    async def main() -> None:
        thread._fail = late
        thread.start()
        ending = asyncio.create_task(asyncio.to_thread(thread.stop))
        await asyncio.to_thread(at_end.wait, 10)
        assert thread.alive
        try:
            async with asyncio.timeout(5):
                with pytest.raises(ApiError) as caught:
                    await thread.run(lambda: 1)
                assert caught.value.code == "draining"
                thread.refusing = False  # who has looked at it just before
                with pytest.raises(ApiError) as caught:
                    thread.submit([Job([1], SamplingParams())])
                assert caught.value.code == "draining"
        finally:
            go.set()
            await ending

    asyncio.run(main())


def test_replies_go_on_while_others_have_the_thread_do_things_without_end():
    thread = service().thread
    over = threading.Event()

    def again() -> None:
        if not over.is_set():
            thread._post(again)

    async def main() -> None:
        thread.start()
        thread._post(again)
        try:
            waiting = thread.submit([Job([1, 2], SamplingParams(max_tokens=3))])
            async with asyncio.timeout(10):
                events = [batch async for batch in waiting.batches(deadline=time.monotonic() + 60)]
            assert events
        finally:
            over.set()
            await asyncio.to_thread(thread.stop)

    asyncio.run(main())


def test_the_queue_is_as_full_while_the_engine_takes_a_request_in():
    with serving(slots=1, max_queue=2) as server:
        add, met, go = server.service.engine.add, threading.Event(), threading.Event()

        def slow(*given):
            met.set()
            go.wait(20)
            return add(*given)

        server.service.engine.add = slow
        first = open_request(server.url, {**LONG, "n": 3, "max_tokens": 2})
        assert met.wait(10)
        threading.Timer(10, go.set).start()  # so that a server that takes it answers too
        assert call(server.url, "POST", CHAT, {**LONG, "max_tokens": 2})[0] == 429
        go.set()
        assert b"200 OK" in first.recv(100)


def test_embeddings_that_take_too_long():
    with serving(request_timeout=0.3) as server:
        go = held(server.service)
        threading.Timer(10, go.set).start()
        status, _, answer = call(server.url, "POST", "/v1/embeddings", EMBED)
        go.set()
        assert status == 408 and answer["error"]["code"] == "timeout"


def test_embeddings_that_the_end_of_the_server_meets_are_told():
    server = serving(drain=0.1)
    go = held(server.service)
    connection = open_request(server.url, EMBED, "/v1/embeddings")
    late = open_request(server.url, LONG)
    stopper = threading.Thread(target=server.stop)
    while server.host.num_open < 2:
        time.sleep(0.01)
    stopper.start()
    try:
        for waiting in (connection, late):
            assert b'"code":"draining"' in read_all(waiting)
    finally:
        go.set()
        stopper.join(20)
    assert not stopper.is_alive()


def connections(server) -> int:
    return len(server._server.server_state.connections)


def test_a_stream_that_nobody_reads_from_its_first_event_on_is_cancelled_and_hung_up_on(monkeypatch):
    """The first event repeats the request's tools, which alone exceed the send buffer of an idle client."""
    monkeypatch.setattr(wire, "SEND_IDLE", 0.3)
    with serving(language_model(max_positions=60_000), prefix_cache_mb=0) as server:
        tool = {"type": "function", "description": "x" * 9000, "parameters": {"type": "object"}}
        tools = [{**tool, "name": f"t{i}"} for i in range(120)]
        body = {
            "model": "tiny",
            "input": "Hello",
            "max_output_tokens": 50_000,
            "stream": True,
            "tools": tools,
            "tool_choice": "none",
            "logit_bias": LONG["logit_bias"],
        }
        unread = open_request(server.url, body, "/v1/responses", buffer=4096)
        eventually(lambda: server.service.engine.num_running == 1)
        eventually(lambda: idle(server.host) and connections(server) == 0)
        assert server.service.thread.num_cancelled == 1
        unread.close()


def test_an_answer_that_nobody_reads_is_not_kept(monkeypatch):
    monkeypatch.setattr(wire, "SEND_IDLE", 0.3)
    with serving() as server:
        body = {"prompt": "fox " * 50_000, "return_token_strs": True}
        status, _, answer = call(server.url, "POST", "/tokenize", body)
        assert status == 200 and len(answer["token_strs"]) == answer["count"], (
            "a client that reads receives it"
        )
        unread = open_request(server.url, body, "/tokenize", buffer=4096)
        eventually(lambda: connections(server) == 1)
        eventually(lambda: connections(server) == 0)
        unread.close()


def test_the_rest_of_a_body_that_is_answered_already_must_come_in_time():
    def ask(server, connection: socket.socket) -> None:
        host = urlsplit(server.url).netloc
        connection.sendall(f"GET /health HTTP/1.1\r\nhost: {host}\r\ncontent-length: 2\r\n\r\n".encode())
        while not connection.recv(4096).endswith(b"}"):
            pass

    def connect(server) -> socket.socket:
        where = urlsplit(server.url)
        return socket.create_connection((where.hostname, where.port), timeout=10)

    with serving(header_timeout=0.3) as server, connect(server) as slow:
        ask(server, slow)
        slow.sendall(b"x")
        assert slow.recv(100) == b""
    with serving() as server, connect(server) as good:
        for _ in range(3):
            ask(server, good)
            good.sendall(b"xx")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"model": "tiny", "prompt": "Once", "max_tokens": 1}),
        ("/v1/embeddings", {"model": "tiny", "input": "Once"}),
        ("/tokenize", {"prompt": "Once"}),
        (CHAT, {**LONG, "max_tokens": 1}),
    ],
)
def test_a_long_text_that_is_being_split_into_tokens_holds_up_nobody(monkeypatch, path, body):
    with serving() as server:
        met, go, over = threading.Event(), threading.Event(), threading.Event()

        def slowed_down(encode):
            def slow(*given, **named):
                met.set()
                go.wait(10)
                over.set()
                return encode(*given, **named)

            return slow

        tokenizer = server.service.tokenizer
        for name in ("encode", "encode_batch", "encode_places"):
            monkeypatch.setattr(tokenizer, name, slowed_down(getattr(tokenizer, name)))
        long = open_request(server.url, body, path)
        assert met.wait(10)
        assert call(server.url, "GET", "/health")[0] == 200 and not over.is_set()
        go.set()
        assert b"200 OK" in long.recv(100)


def test_who_goes_after_sending_a_second_request_too_is_missed():
    with serving(language_model(max_positions=60_000), prefix_cache_mb=0) as server:
        service = slowed(server.service)
        connection = open_request(server.url, {**LONG, "max_tokens": 50_000})
        eventually(lambda: service.engine.num_running == 1)
        connection.sendall(f"GET /health HTTP/1.1\r\nhost: {urlsplit(server.url).netloc}\r\n\r\n".encode())
        connection.close()
        eventually(lambda: idle(server.host))
        assert service.thread.num_cancelled == 1


def test_stopping_twice_cuts_nobody_off():
    server = serving(drain=20)
    slowed(server.service)
    stream = open_request(server.url, {**LONG, "max_tokens": 20, "stream": True})
    eventually(lambda: server.service.engine.num_running == 1)
    first = threading.Thread(target=server.stop)
    first.start()
    eventually(lambda: server.host.draining)
    assert server.stop() == 0
    first.join(20)
    assert b"data: [DONE]" in read_all(stream)


def test_a_body_that_is_not_whole_when_the_server_ends_is_refused():
    server = serving(drain=20)
    parts = urlsplit(server.url)
    connection = socket.create_connection((parts.hostname, parts.port), timeout=20)
    head = f"POST {CHAT} HTTP/1.1\r\nhost: {parts.netloc}\r\n"
    head += "content-type: application/json\r\ncontent-length: 900\r\n\r\n"
    connection.sendall(head.encode() + b'{"model": ')
    eventually(lambda: server.host.num_open == 1)
    begun = time.monotonic()
    server.stop()
    received = read_all(connection)
    assert b"503 Service Unavailable" in received and b'"code":"draining"' in received
    assert time.monotonic() - begun < 15, "long before the time to drain is up"


def test_an_event_loop_is_woken_once_for_all_of_its_calls():
    async def woken() -> int:
        loop, times = asyncio.get_running_loop(), []
        call_soon = loop.call_soon_threadsafe
        loop.call_soon_threadsafe = lambda *work: times.append(work) or call_soon(*work)
        calls = [Call(None, []) for _ in range(3)]
        hand_out({call: [(number, None)] for number, call in enumerate(calls)})
        await asyncio.sleep(0)
        assert [call.queue.get_nowait() for call in calls] == [[(number, None)] for number in range(3)]
        return len(times)

    assert asyncio.run(woken()) == 1
