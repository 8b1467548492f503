"""What a step adds to a stream is one piece, however many choices it has."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

from coterie.protocol.chunks import chunks
from coterie.protocol.replies import Usage
from coterie.protocol.requests import StreamOptions
from coterie.protocol.wire import DONE


def test_the_choices_of_a_step_are_one_piece() -> None:
    async def batches() -> AsyncGenerator[list[dict[str, Any]], None]:
        yield [{"index": index, "finish_reason": None} for index in range(3)]
        yield []
        yield [{"index": 0, "finish_reason": "stop"}]

    async def read(options: StreamOptions) -> list[bytes]:
        return [piece async for piece in chunks({"id": "a"}, batches(), Usage(5), options, {"note": 1})]

    first, second, end = asyncio.run(read(StreamOptions()))
    events = [json.loads(line.removeprefix(b"data: ")) for line in first.split(b"\n\n") if line]
    assert [event["choices"][0]["index"] for event in events] == [0, 1, 2]
    assert not any("note" in event for event in events) and b'"note":1' in second
    assert end == DONE
    *_, end = asyncio.run(read(StreamOptions(include_usage=True)))
    assert end.endswith(DONE) and b'"prompt_tokens":5' in end
