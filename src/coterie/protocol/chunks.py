"""The stream of chat and completions: chunks of choices, then the usage, then `[DONE]`."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from coterie.protocol.replies import Usage
from coterie.protocol.requests import StreamOptions
from coterie.protocol.wire import DONE, encode


async def chunks(
    head: dict[str, Any],
    batches: AsyncGenerator[list[dict[str, Any]], None],
    usage: Usage,
    options: StreamOptions,
    last: dict[str, Any],
) -> AsyncGenerator[bytes, None]:
    """Server-sent events, one for each choice; those of one batch are one piece, so that they are one write.

    `last`: what the last event of a choice says besides.
    """

    def chunk(choices: list[dict[str, Any]], more: dict[str, Any]) -> bytes:
        return b"data: " + encode({**head, "choices": choices, **more}) + b"\n\n"

    async with aclosing(batches):
        async for choices in batches:
            so_far = usage.so_far(options)
            if choices:
                yield b"".join(
                    chunk([choice], so_far | (last if choice["finish_reason"] else {})) for choice in choices
                )
    yield (chunk([], {"usage": usage.to_dict()}) if options.include_usage else b"") + DONE
