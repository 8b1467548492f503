"""Bodies are read and prompts rendered for clients that are still there; the others keep nobody waiting."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from coterie.hosting.errors import ApiError
from coterie.hosting.preparation import SMALL, Lane
from coterie.protocol import conversation
from tests.serve.support import ASK, call, eventually, hang_up, open_request, serving
from tests.serve.test_server import CHAT

BODY = {"model": "tiny", "messages": ASK, "max_tokens": 2}


def test_clients_that_hang_up_while_their_prompts_are_rendered_keep_nobody_waiting(monkeypatch):
    """Renderings that do not end: others go on, and nothing waits that nobody wants."""
    go, begun, right = threading.Event(), [], conversation.conversation_ids

    def slow(tokenizer, messages, *given):
        if messages[0].text == "slow":
            begun.append(1)
            go.wait(20)
        return right(tokenizer, messages, *given)

    monkeypatch.setattr(conversation, "conversation_ids", slow)
    with serving() as server:
        try:
            left = [
                open_request(server.url, {**BODY, "messages": [{"role": "user", "content": "slow"}]})
                for _ in range(7)
            ]
            eventually(lambda: len(begun) == 4)
            for connection in left:
                hang_up(connection)
            started = time.monotonic()
            assert call(server.url, "POST", CHAT, BODY)[0] == 200 and time.monotonic() - started < 5
            lane = server.host.preparations._lanes[0][1]
            # A waiting request may begin before the server has noticed that its client left as well.
            assert 4 <= lane.num_left == len(begun) <= 7 and lane.num_waiting == 0
            eventually(lambda: server.host.num_open == 0)
        finally:
            go.set()
        eventually(lambda: lane.num_left == 0)
        assert call(server.url, "POST", CHAT, BODY)[0] == 200


def test_left_work_is_bounded_and_so_is_the_queue():
    """Twice the threads may be left; then a place is free only when its work ends."""
    go = threading.Event()

    async def main() -> None:
        lane = Lane(1)
        for count in (1, 2, 2, 2):
            task = asyncio.ensure_future(lane.run(lambda: go.wait(20), 9))
            await asyncio.sleep(0.01)
            task.cancel()
            await asyncio.wait([task])
            assert lane.num_left == count
        waiting = asyncio.ensure_future(lane.run(lambda: "done", 1))
        await asyncio.sleep(0.01)
        assert not waiting.done() and lane.num_waiting == 1
        with pytest.raises(ApiError, match="too many requests wait"):
            await lane.run(lambda: 1, 1)
        go.set()
        assert await waiting == "done"
        assert await lane.run(lambda: 1, 0) == 1
        async with asyncio.timeout(20):  # the threads of left work end in any order
            while lane.num_left:
                await asyncio.sleep(0.001)
        with pytest.raises(ZeroDivisionError):
            await lane.run(lambda: 1 // 0, 0)
        lane.close()

    asyncio.run(main())


def test_large_bodies_are_read_beside_the_event_loop(monkeypatch):
    places = []

    def noted(raw):
        places.append((len(raw) > SMALL, threading.current_thread().name))
        return {"model": "tiny", "messages": ASK, "max_tokens": 1}

    monkeypatch.setattr("coterie.protocol.received.parse", noted)
    with serving() as server:
        for size in (10, SMALL + 1, 2**21):
            assert call(server.url, "POST", CHAT, {"pad": " " * size})[0] == 200
    assert [(large, "prepare" in name) for large, name in places] == [
        (False, False),
        (True, True),
        (True, True),
    ]


@pytest.mark.parametrize(
    "body",
    [
        b"{" + b",".join(b'"k%d":0' % i for i in range(40_000)) + b',"k39999":0}',
        b'{"model":"tiny","messages":[' + b"0," * 2_000_000 + b"0]}",
        b'{"model":"tiny","messages":[' + b'{"a":1},' * 400_000 + b"0]}",
        b"[" * 2_000_000,
    ],
    ids=["a key twice", "integers", "objects", "deep"],
)
def test_health_answers_while_a_large_body_is_refused(body):
    """Each of these once cost seconds on the event loop (the first 13 s)."""
    with serving() as server:
        attack = threading.Thread(target=call, args=(server.url, "POST", CHAT, body))
        attack.start()
        slowest = 0.0
        while attack.is_alive():
            begun = time.monotonic()
            assert call(server.url, "GET", "/health")[0] == 200
            slowest = max(slowest, time.monotonic() - begun)
            time.sleep(0.01)
        attack.join()
        assert slowest < 2  # 0.2 s on a machine that does nothing else (LOG.md)
