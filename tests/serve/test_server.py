"""Clients that disconnect, come in crowds or are slow; an engine that fails; a server that is stopped."""

from __future__ import annotations

import asyncio
import http.client
import json
import signal
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import openai
import pytest

from coterie.hosting.engine_thread import Call, Job
from coterie.hosting.host import Host
from coterie.infer.sampling import SamplingParams
from coterie.protocol import wire
from coterie.serve.server import serve
from tests.forked import Forked
from tests.serve.support import (
    ASK,
    call,
    eventually,
    hang_up,
    idle,
    language_model,
    open_request,
    service,
    serving,
    slowed,
)

CHAT = "/v1/chat/completions"
LONG = {"model": "tiny", "messages": ASK, "max_tokens": 450, "logit_bias": {"0": -100, "2": -100}}


@pytest.mark.parametrize("stream", [True, False])
def test_fifty_clients_that_vanish_leave_nothing(stream):
    with serving(slots=16, max_queue=64, prefix_cache_mb=0) as server:
        service = slowed(server.service)
        connections = [open_request(server.url, {**LONG, "stream": stream}) for _ in range(50)]
        if stream:
            for connection in connections[:16]:
                assert b"200 OK" in connection.recv(100)
        eventually(lambda: service.engine.num_running == 16 and service.thread.num_waiting == 34)
        for connection in connections:
            hang_up(connection)
        gone = time.monotonic()
        eventually(lambda: idle(server.host))
        assert time.monotonic() - gone < 2
        assert service.thread.num_cancelled == 50
        assert call(server.url, "GET", "/metrics")[2].count("coterie_cancelled_total 50") == 1
        assert call(server.url, "POST", CHAT, {**LONG, "max_tokens": 3})[0] == 200


def test_a_client_that_vanishes_while_its_prompt_is_read():
    with serving(language_model(max_positions=4096), slots=2, prefill_chunk=16, prefix_cache_mb=0) as server:
        service = slowed(server.service)
        body = {"model": "tiny", "prompt": [7] * 3000, "max_tokens": 5, "stream": True}
        connection = open_request(server.url, body, "/v1/completions")
        eventually(lambda: service.engine.cache_bytes > 0)
        hang_up(connection)
        eventually(lambda: idle(server.host), 3)
        assert service.thread.num_cancelled == 1


def test_pings_while_a_prompt_is_read():
    with serving(language_model(max_positions=4096), prefill_chunk=16, ping=0.05) as server:
        slowed(server.service)
        asked = [{"role": "user", "content": "fox " * 400}]
        connection = open_request(server.url, {**LONG, "messages": asked, "max_tokens": 1, "stream": True})
        received = b""
        while b"[DONE]" not in received:
            received += connection.recv(65536)
        pings = [line for line in received.split(b"\n") if line.startswith(b": ping prefill=")]
        assert len(pings) >= 2
        read = [int(line.split(b"=")[1].split(b"/")[0]) for line in pings]
        assert read == sorted(read) and read[-1] > 0


def test_a_burst_is_taken_up_to_the_cap_and_the_rest_told_when_to_come_back():
    with serving(slots=2, max_queue=3) as server:
        slowed(server.service)
        body = {**LONG, "max_tokens": 15}
        with ThreadPoolExecutor(30) as pool:
            answers = list(pool.map(lambda _: call(server.url, "POST", CHAT, body), range(30)))
        statuses = [status for status, _, _ in answers]
        assert statuses.count(200) >= 5 and set(statuses) == {200, 429}
        for status, headers, answer in answers:
            if status == 429:
                assert answer["error"]["code"] == "queue_full" and 1 <= int(headers["retry-after"]) <= 120
        assert "coterie_rejected_total" in call(server.url, "GET", "/metrics")[2]
        # The real client waits as told and succeeds.
        client = openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=8)
        with ThreadPoolExecutor(7) as pool:
            asked = [{**body, "seed": seed} for seed in range(7)]
            replies = list(pool.map(lambda each: client.chat.completions.create(**each), asked))
        assert len({reply.choices[0].message.content for reply in replies}) == 7


def test_one_request_larger_than_the_queue_is_taken_alone():
    with serving(slots=2, max_queue=2) as server:
        answer = call(
            server.url, "POST", "/v1/completions", {"model": "tiny", "prompt": ["a"] * 20, "max_tokens": 1}
        )
        assert answer[0] == 200 and len(answer[2]["choices"]) == 20


@pytest.mark.parametrize("stream", [True, False])
def test_requests_that_take_too_long(stream):
    """The client, which tries a 408 again, is told not to: it would take as long."""
    with serving(request_timeout=0.3, prefix_cache_mb=0) as server:
        slowed(server.service)
        client = openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=2)
        asked = {"model": "tiny", "input": "Hello", "max_output_tokens": LONG["max_tokens"]}
        asked["extra_body"] = {"logit_bias": LONG["logit_bias"]} if "logit_bias" in LONG else {}
        for create, body in ((client.chat.completions.create, LONG), (client.responses.create, asked)):
            with pytest.raises(openai.APIError) as caught:
                answer = create(**body, stream=stream)
                list(answer)
            assert caught.value.code == "timeout" and "longer than the server allows" in str(caught.value)
        eventually(lambda: idle(server.host))
        counts = call(server.url, "GET", "/metrics")[2]
        code = 200 if stream else 408
        for path in (CHAT, "/v1/responses"):
            assert f'coterie_requests_total{{endpoint="{path}",status="{code}"}} 1\n' in counts


def test_slow_headers_and_slow_bodies_are_hung_up_on(monkeypatch):
    monkeypatch.setattr(wire, "BODY_IDLE", 0.4)
    with serving(header_timeout=0.4) as server:
        parts = urlsplit(server.url)
        silent, partial, keeps = (
            socket.create_connection((parts.hostname, parts.port), timeout=5) for _ in range(3)
        )
        begun = time.monotonic()
        partial.sendall(b"GET /health HTTP/1.1\r\nhost: x")
        # A first request in time does not give the second one's headers for ever.
        keeps.sendall(f"GET /health HTTP/1.1\r\nhost: {parts.netloc}\r\n\r\n".encode())
        answer = b""
        while not answer.endswith(b"}"):
            answer += keeps.recv(4096)
        assert b'"status":"ok"' in answer
        keeps.sendall(b"GET /hea")
        for connection in (silent, partial, keeps):
            assert connection.recv(100) == b""
        assert time.monotonic() - begun < 3
        head = f"POST {CHAT} HTTP/1.1\r\nhost: {parts.netloc}\r\ncontent-type: application/json\r\n"
        head += "content-length: 50\r\n\r\n{"
        with socket.create_connection((parts.hostname, parts.port), timeout=5) as body:
            body.sendall(head.encode())
            assert b" 408 " in body.recv(100)


def test_a_reader_that_never_reads_is_dropped(monkeypatch):
    monkeypatch.setattr(wire, "SEND_IDLE", 0.3)
    with serving(language_model(max_positions=60_000), prefix_cache_mb=0) as server:
        service = server.service
        body = {**LONG, "max_tokens": 50_000, "stream": True, "logprobs": True, "top_logprobs": 20}
        connection = open_request(server.url, body, buffer=4096)
        eventually(lambda: service.engine.num_running == 1)
        eventually(lambda: idle(server.host), 30)
        assert service.thread.num_cancelled == 1
        connection.close()


def test_a_kept_connection_is_as_fast_as_a_new_one(server):
    """Without TCP_NODELAY each answer would wait 40 ms for the client's acknowledgement."""
    parts = urlsplit(server.url)
    kept, seconds = http.client.HTTPConnection(parts.hostname, parts.port), []
    for _ in range(10):
        begun = time.monotonic()
        kept.request("GET", "/health")
        assert kept.getresponse().read()
        seconds.append(time.monotonic() - begun)
    assert sorted(seconds)[2] < 0.03, seconds


def test_more_connections_than_allowed():
    with serving(max_connections=8) as server:
        parts = urlsplit(server.url)
        held = [socket.create_connection((parts.hostname, parts.port)) for _ in range(12)]
        time.sleep(0.1)
        with socket.create_connection((parts.hostname, parts.port), timeout=5) as late:
            late.sendall(f"GET /health HTTP/1.1\r\nhost: {parts.netloc}\r\n\r\n".encode())
            assert b" 503 " in late.recv(100)
        for connection in held:
            connection.close()
        eventually(lambda: call(server.url, "GET", "/health")[0] == 200)


def test_a_failing_engine_is_seen_by_everyone():
    server = serving(slots=2, max_queue=8)
    service = slowed(server.service)
    streams = [open_request(server.url, {**LONG, "stream": True}) for _ in range(4)]
    for stream in streams[:2]:
        assert b"200 OK" in stream.recv(200)

    def broken():
        raise RuntimeError("/secret/path: out of memory")

    server.host.num_open += 1  # as if a request were left: the server stays until all has been looked at
    service.engine.step = broken
    for stream in streams:
        received = b""
        while chunk := stream.recv(65536):
            received += chunk
            if b'"error"' in received:
                break
        event = received.rpartition(b"data: {")[2].split(b"\n\n")[0] if b"data: {" in received else received
        assert b"engine_dead" in event and b"secret" not in received and b"[DONE]" not in received
    assert call(server.url, "GET", "/ready")[0] == 503 and call(server.url, "GET", "/health")[0] == 200
    assert call(server.url, "POST", CHAT, LONG)[2]["error"]["code"] == "engine_dead"
    server.host.num_open -= 1
    assert server.stop() == 1


def test_a_sequence_the_model_cannot_continue_fails_alone():
    """Logits that are not finite end the requests of that step; the server goes on."""
    with serving() as server:
        weight = server.service.model.model.norm.weight
        kept = weight.detach().clone()
        weight.data.fill_(float("nan"))
        status, _, answer = call(server.url, "POST", CHAT, {**LONG, "max_tokens": 2})
        assert status >= 400 and "not finite" in answer["error"]["message"]
        weight.data.copy_(kept)
        assert call(server.url, "POST", CHAT, {**LONG, "max_tokens": 2})[0] == 200


def test_draining_lets_replies_end_and_takes_no_more():
    server = serving(slots=4, drain=20)
    slowed(server.service, 0.01)
    streams = [open_request(server.url, {**LONG, "max_tokens": 60, "stream": True}) for _ in range(4)]
    eventually(lambda: server.service.engine.num_running == 4)
    stopper = threading.Thread(target=server.stop)
    stopper.start()
    eventually(lambda: server.host.draining)
    assert call(server.url, "GET", "/ready")[2]["error"]["code"] == "draining"
    assert call(server.url, "POST", CHAT, LONG)[0] == 503
    assert call(server.url, "POST", "/v1/embeddings", {"model": "tiny", "input": "Once"})[0] == 503
    for stream in streams:
        received = b""
        while chunk := stream.recv(65536):
            received += chunk
        assert b"data: [DONE]" in received
    stopper.join(timeout=20)
    assert not stopper.is_alive()


def test_draining_waits_for_a_request_on_its_way_into_the_engine():
    """It is in no queue for a moment; a reply must not be broken off then."""
    server = serving(drain=20)
    slowed(server.service, 0.1)
    add, met = server.service.engine.add, threading.Event()

    def slow(*given):
        met.set()
        eventually(lambda: server.host.draining)
        time.sleep(0.1)  # the draining server looks several times meanwhile
        return add(*given)

    server.service.engine.add = slow
    stream = open_request(server.url, {**LONG, "max_tokens": 6, "stream": True})
    assert met.wait(20)
    server.stop()
    received = b""
    while chunk := stream.recv(65536):
        received += chunk
    assert b"data: [DONE]" in received


@pytest.mark.parametrize("stream", [True, False])
def test_after_the_time_to_drain_all_are_told_even_while_the_engine_is_in_a_long_step(stream):
    server = serving(drain=0.1)
    step, told = server.service.engine.step, threading.Event()
    server.service.engine.step = lambda: (told.wait(20), step())[1]
    connection = open_request(server.url, {**LONG, "stream": stream})
    eventually(lambda: server.service.engine.num_running + len(server.service.engine.waiting) == 1)
    stopper = threading.Thread(target=server.stop)
    stopper.start()
    received = b""
    while chunk := connection.recv(65536):  # to the end, before the step ends
        received += chunk
    told.set()
    assert (b"200 OK" if stream else b"503 Service Unavailable") in received
    assert b'"code":"draining"' in received and b"[DONE]" not in received
    stopper.join(timeout=20)
    assert not stopper.is_alive()


@pytest.mark.parametrize("ticks", range(5))
def test_who_is_cancelled_while_a_token_comes_is_cancelled(ticks):
    async def read(waiting: Call) -> None:
        async for _ in waiting.batches(deadline=time.monotonic() + 60):
            pass

    async def main() -> None:
        owner = service().thread  # never started: nothing comes but what the test pushes
        waiting = Call(owner, [Job([1], SamplingParams())])
        reader = asyncio.create_task(read(waiting))
        await asyncio.sleep(0.01)
        waiting.push([])
        for _ in range(ticks):
            await asyncio.sleep(0)
        reader.cancel()
        done, _ = await asyncio.wait({reader}, timeout=5)
        assert done and reader.cancelled() and waiting.cancelled and not owner.listening

    asyncio.run(main())


def served(drain: float) -> None:
    """A server in another process, with slow steps; it says its address."""
    offered = slowed(service(drain=drain), 0.05)
    sys.exit(serve(Host.of(offered), lambda url: print(url, flush=True)))


def signalled(drain: float, signals: int) -> tuple[int, bytes]:
    """The exit code of a server that was sent so many signals in a reply, and what its client received."""
    process = Forked(served, drain)
    try:
        stream = open_request(process.stdout.readline().strip(), {**LONG, "stream": True})
        received = stream.recv(200)
        # The second before the first has begun to drain.
        for number in (signal.SIGTERM, signal.SIGINT)[:signals]:
            process.send_signal(number)
        begun = time.monotonic()
        while chunk := stream.recv(65536):
            received += chunk
        code = process.wait(20)
        assert time.monotonic() - begun < 10
        return code, received
    finally:
        process.kill()


def test_signals():
    """SIGTERM: replies running after the drain time get an error event; a second signal ends that time."""
    with ThreadPoolExecutor(2) as pool:
        once, twice = pool.map(signalled, (0.3, 60), (1, 2))
    assert once[0] == 0 and twice[0] == 1
    for _, received in (once, twice):
        assert b"200 OK" in received
        assert b'"code":"draining"' in received and b"[DONE]" not in received


def test_a_mixed_batch_is_each_request_alone():
    """Text, JSON, tools, log-probabilities and expert control side by side, in deterministic mode."""
    from tests.hosting.constraints.test_grammar import NO_REASONING, SCHEMA, TOOLS, response_format

    base = {"model": "tiny", "messages": ASK, "logit_bias": NO_REASONING, "max_tokens": 48}
    bodies = []
    for seed in range(12):
        more = [
            {"response_format": response_format(SCHEMA)},
            {"tools": TOOLS, "tool_choice": "required", "parallel_tool_calls": False},
            {"logprobs": True, "top_logprobs": 3, "temperature": 0.7},
            {"moe": {"routing": "full", "mask": {"0": [seed % 6]}}},
            {"stop": ["e", "th"], "n": 2},
        ][seed % 5]
        bodies.append({**base, "seed": seed, **more})

    def shape(answer):
        status, _, data = answer
        assert status == 200, data
        text = json.dumps(data["choices"])
        for choice in data["choices"]:
            for made in choice["message"].get("tool_calls") or []:
                text = text.replace(made["id"], "")
        return text

    with serving(deterministic=True, prefill_chunk=16) as server:
        alone = [shape(call(server.url, "POST", CHAT, body)) for body in bodies]
        with ThreadPoolExecutor(12) as pool:
            together = list(pool.map(lambda body: shape(call(server.url, "POST", CHAT, body)), bodies))
    assert together == alone
