"""Streams stay open while nothing else is sent, and end with the words of what failed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from coterie.hosting.errors import draining, too_slow
from coterie.protocol.dialects import ANTHROPIC, OLLAMA, OPENAI
from coterie.protocol.wire import EventStream


def sent(events: AsyncGenerator[bytes, None], silence: float = 0.02) -> list[bytes]:
    """The bodies of a stream whose pings are `ping 0` before it has begun and `ping 1` after that."""
    bodies: list[bytes] = []

    async def send(message: Any) -> None:
        bodies.append(message.get("body", b""))

    async def receive() -> Any:
        await asyncio.Event().wait()

    async def main() -> None:
        stream = EventStream(
            events,
            {},
            lambda error: f"failed: {error.code}".encode(),
            lambda: None,
            lambda begun: f"ping {begun:d}".encode(),
            silence,
        )
        await stream({"type": "http"}, receive, send)
        count = len(bodies)
        await asyncio.sleep(min(2 * silence, 0.1))
        assert len(bodies) == count, "something is sent after the end"

    asyncio.run(main())
    return bodies[1:-1]  # between the head and the end


async def held_back() -> AsyncGenerator[bytes, None]:
    """Work that goes on in short steps and has nothing to show."""
    for _ in range(10):
        await asyncio.sleep(0.01)
    yield b"one"
    for _ in range(10):
        await asyncio.sleep(0.01)
    yield b"two"


async def busy() -> AsyncGenerator[bytes, None]:
    for number in range(10):
        await asyncio.sleep(0.01)
        yield str(number).encode()


async def fails() -> AsyncGenerator[bytes, None]:
    yield b"one"
    raise too_slow()


def test_a_stream_that_shows_nothing_pings():
    bodies = sent(held_back())
    place = bodies.index(b"one")
    assert place >= 2 and set(bodies[:place]) == {b"ping 0"}
    assert len(bodies) - place >= 4 and set(bodies[place + 1 : -1]) == {b"ping 1"} and bodies[-1] == b"two"


def test_a_busy_stream_does_not_ping():
    assert sent(busy(), silence=5) == [str(number).encode() for number in range(10)]


def test_a_stream_that_fails_ends_with_the_reason():
    assert sent(fails(), silence=0.01) == [b"one", b"failed: timeout"]


def test_each_protocol_pings_in_its_own_way():
    assert OPENAI.ping("prefill=1/2", False) == OPENAI.ping("prefill=1/2", True) == b": ping prefill=1/2\n\n"
    assert ANTHROPIC.ping("prefill=1/2", False) == b": ping prefill=1/2\n\n"
    assert ANTHROPIC.ping("prefill=1/2", True).startswith(b"event: ping\n")
    assert OLLAMA.ping("prefill=1/2", True) == b""


def test_only_what_waiting_cannot_mend_is_not_to_be_tried_again():
    assert too_slow().headers() == {"x-should-retry": "false"}
    assert draining().headers() == {"retry-after": "5"}
