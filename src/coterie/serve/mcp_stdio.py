"""An MCP server on standard input and output.

Output goes through the MCP package. Input is read here, for two reasons: the package drops a line that it
cannot read, so that the client waits for its answer for ever (JavaScript writes halves of surrogate pairs,
which JSON in UTF-8 cannot hold); and it reads in a thread that signals have to wait for.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

if TYPE_CHECKING:
    from mcp.server import Server
    from mcp.types import JSONRPCError

_STDIN, _PIECE = 0, 2**16


async def serve_stdio(server: Server[Any]) -> None:
    """Serve until standard input ends or nobody reads the output. Cancelling ends it at once."""
    import anyio
    from mcp.server.stdio import stdio_server
    from mcp.shared.message import SessionMessage
    from mcp.types import jsonrpc_message_adapter

    into, inward = anyio.create_memory_object_stream[SessionMessage | Exception](0)

    async def read(outward: Any) -> None:
        async with into:
            async for line in lines(_STDIN):
                try:
                    message = jsonrpc_message_adapter.validate_json(line, by_name=False)
                except ValidationError as error:
                    await outward.send(SessionMessage(refusal(line, error)))
                else:
                    await into.send(SessionMessage(message))

    nothing: Any = _no_lines()
    try:
        async with stdio_server(stdin=nothing) as (_, outward), anyio.create_task_group() as group:
            group.start_soon(read, outward)
            await server.run(inward, outward, server.create_initialization_options())
            group.cancel_scope.cancel()
    except* BrokenPipeError:
        pass


async def lines(descriptor: int) -> AsyncIterator[bytes]:
    """The lines of a file that are not blank, read by a thread that nobody has to wait for."""
    queue: asyncio.Queue[bytes] = asyncio.Queue(maxsize=16)
    loop = asyncio.get_running_loop()

    def read() -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody reads any longer
            piece = b"\n"
            while piece:
                piece = os.read(descriptor, _PIECE)
                asyncio.run_coroutine_threadsafe(queue.put(piece), loop).result()

    threading.Thread(target=read, name="coterie-stdin", daemon=True).start()
    rest: list[bytes] = []
    while piece := await queue.get():
        *whole, last = piece.split(b"\n")
        for end in whole:
            line = b"".join([*rest, end])
            rest = []
            if line.strip():
                yield line
        rest.append(last)
    if (line := b"".join(rest)).strip():
        yield line


def refusal(line: bytes, error: ValidationError) -> JSONRPCError:
    """The answer to a line that is no message, with the id of the request that it was meant to be."""
    from mcp.types import INVALID_REQUEST, PARSE_ERROR, ErrorData, JSONRPCError

    try:
        given = json.loads(line.decode(errors="replace"))
    except (ValueError, RecursionError):
        given = None
    number = given.get("id") if isinstance(given, Mapping) and "method" in given else None
    if not isinstance(number, str | int) or isinstance(number, bool):
        number = None
    problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
    if problem["type"] == "json_invalid":
        data = ErrorData(code=PARSE_ERROR, message=problem["msg"])
    else:
        data = ErrorData(code=INVALID_REQUEST, message="this line is not a JSON-RPC message")
    return JSONRPCError(jsonrpc="2.0", id=number, error=data)


async def _no_lines() -> AsyncIterator[str]:
    none: tuple[str, ...] = ()
    for line in none:
        yield line
