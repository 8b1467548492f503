"""Lines of standard input, answers to those that are no messages, and how the server ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

import coterie
from coterie.serve.mcp_stdio import lines, refusal
from tests.agents.models import chat_model

pytest.importorskip("mcp", reason="the extra 'mcp' is not installed")

from mcp.types import jsonrpc_message_adapter


async def read(*pieces: bytes) -> list[bytes]:
    """The lines of a pipe that is written in these pieces."""
    inward, outward = os.pipe()
    found = []

    async def write() -> None:
        for piece in pieces:
            os.write(outward, piece)
            await asyncio.sleep(0)
        os.close(outward)

    writing = asyncio.create_task(write())
    async for line in lines(inward):
        found.append(line)
    await writing
    os.close(inward)
    return found


@given(st.lists(st.binary(max_size=9).map(lambda data: data.replace(b"x", b"\n")), max_size=6))
def test_lines_do_not_depend_on_how_they_arrive(pieces: list[bytes]) -> None:
    expected = [line for line in b"".join(pieces).split(b"\n") if line.strip()]
    assert asyncio.run(read(*pieces)) == expected


def test_a_line_may_be_longer_than_a_pipe() -> None:
    """It takes several reads, and a whole line follows in the last of them."""
    inward, outward = os.pipe()
    sent = b"a" * 300_000 + b"\nb\n"

    def write() -> None:
        os.write(outward, sent)
        os.close(outward)

    async def all_lines() -> list[bytes]:
        return [line async for line in lines(inward)]

    writer = threading.Thread(target=write)
    writer.start()
    assert asyncio.run(all_lines()) == sent.split(b"\n")[:2]
    writer.join()
    os.close(inward)


CALL = b'{"jsonrpc":"2.0","id":%s,"method":"tools/call","params":{"name":"score","arguments":{"text":"%s"}}}'


@pytest.mark.parametrize(
    ("line", "number", "code", "message"),
    [
        (CALL % (b"7", b"\\ud83d"), 7, -32700, "Invalid JSON: unexpected end of hex escape"),
        (CALL % (b'"a"', b"\xff"), "a", -32700, "Invalid JSON: invalid unicode code point"),
        (CALL % (b"true", b"\\ud83d"), None, -32700, "Invalid JSON"),
        (b'{"id": 7, "method": "tools/call"}', 7, -32600, "this line is not a JSON-RPC message"),
        (b'{"id": 7, "answer": 1}', None, -32600, "this line is not a JSON-RPC message"),
        (b"hello", None, -32700, "Invalid JSON: expected value"),
        (b"[" * 100_000, None, -32700, "Invalid JSON"),
    ],
)
def test_a_line_that_cannot_be_read_is_answered(line: bytes, number: Any, code: int, message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        jsonrpc_message_adapter.validate_json(line, by_name=False)
    answer = refusal(line, caught.value)
    assert answer.id == number and answer.error.code == code
    assert answer.error.message.startswith(message) and "\n" not in answer.error.message


@pytest.mark.slow
@pytest.mark.parametrize("how", ["end of input", "nobody reads", "SIGINT", "SIGTERM"])
def test_the_server_ends_while_it_writes(tmp_path: Path, how: str) -> None:
    """Over real pipes: a line that cannot be read is answered, and the process ends soon, without a trace."""
    coterie.save(chat_model(positions=8192), tmp_path / "model")
    process = subprocess.Popen(
        [sys.executable, "-m", "coterie.cli.main", "mcp", str(tmp_path / "model")],
        env={**os.environ, "PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin and process.stdout and process.stderr

    def send(number: int | None, method: str, **params: Any) -> None:
        message = {"jsonrpc": "2.0", "method": method, "params": params}
        text = json.dumps(message if number is None else {**message, "id": number})
        assert process.stdin
        process.stdin.write(text.encode() + b"\n")
        process.stdin.flush()

    def answer() -> dict[str, Any]:
        assert process.stdout
        data: dict[str, Any] = json.loads(process.stdout.readline())
        return data

    try:
        about = {"capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
        send(1, "initialize", protocolVersion="2025-06-18", **about)
        assert answer()["result"]["serverInfo"]["name"] == "coterie"
        send(None, "notifications/initialized")
        send(2, "tools/call", name="chat", arguments={"message": "cut \ud83d"})
        assert answer()["id"] == 2
        long = {"message": "fox", "temperature": 0, "max_tokens": 8000}
        send(3, "tools/call", name="chat", arguments=long, _meta={"progressToken": "p"})
        while answer()["params"]["progress"] < 1:
            pass
        if how == "end of input":
            process.stdin.close()
        elif how == "nobody reads":
            process.stdout.close()
        else:
            process.send_signal(getattr(signal, how))
        assert process.wait(15) == {"SIGINT": 130, "SIGTERM": 143}.get(how, 0)
        assert process.stderr.read() == (b"coterie: stopped\n" if how == "SIGINT" else b"")
    finally:
        process.kill()
        process.wait()
