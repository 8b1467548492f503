"""MCP with the official client and server library, over real pipes: a model as a server, and tools in our
loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import coterie
from coterie.agents.loop import Agent
from coterie.agents.mcp_server import build, explain_routes, score_text
from coterie.agents.mcp_tools import McpServers, read_config
from coterie.config.errors import ConfigError, CoterieError
from coterie.sandbox.tools import ToolError
from coterie.text.chat import Message
from tests.agents.fake import Script, calls
from tests.agents.models import chat_model

pytest.importorskip("mcp", reason="the extra 'mcp' is not installed")

TINY_SERVER = """
from mcp.server import MCPServer
server = MCPServer("tiny", log_level="ERROR")

@server.tool()
def add(a: int, b: int) -> int:
    "Add."
    return a + b

@server.tool()
def fail() -> str:
    "Fail."
    from mcp.server.mcpserver.exceptions import ToolError
    raise ToolError("on purpose")

@server.tool()
def sleep() -> str:
    "Sleep."
    import time
    time.sleep(30)
    return "late"

import sys
import threading
server.run(*sys.argv[1:2] or ["stdio"], **({"port": int(sys.argv[2])} if sys.argv[2:] else {}))
"""


def config(folder: Path, **servers: object) -> Path:
    path = folder / "mcp.json"
    path.write_text(json.dumps({"mcpServers": servers}))
    return path


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> McpServers:
    folder = tmp_path_factory.mktemp("mcp")
    (folder / "tiny.py").write_text(TINY_SERVER)
    return McpServers(config(folder, tiny={"command": sys.executable, "args": [str(folder / "tiny.py")]}))


def test_tools_of_a_server_in_the_loop(servers: McpServers) -> None:
    add = {tool.name: tool for tool in servers.tools}["tiny__add"]
    assert add.writes and add.spec()["function"]["parameters"]["required"] == ["a", "b"]
    script = Script(calls(("tiny__add", {"a": 2, "b": 3})), "5")
    agent = Agent(script, servers.tools, approve=lambda tool, arguments: True)
    agent.run([Message("user", "add")])
    assert agent.messages[2].text == "5"
    denied = Agent(Script(calls(("tiny__add", {"a": 2, "b": 3})), "no"), servers.tools)
    denied.run([Message("user", "add")])
    assert "did not allow" in denied.messages[2].text


def test_failures_of_a_server_are_told(servers: McpServers) -> None:
    with pytest.raises(ToolError, match="on purpose"):
        servers.call("tiny", "fail", {}, 5)
    with pytest.raises(ToolError, match="tiny: "):
        servers.call("tiny", "sleep", {}, 0.5)
    assert servers.call("tiny", "add", {"a": 1, "b": 1}, 5) == "2", "it still answers"
    servers.close()


def test_a_server_over_http(tmp_path: Path) -> None:
    """By its address, with and without headers; when it goes away, calls are told so."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "tiny.py").write_text(TINY_SERVER)
    process = subprocess.Popen([sys.executable, str(tmp_path / "tiny.py"), "streamable-http", str(port)])
    try:
        url = f"http://127.0.0.1:{port}/mcp"
        wait_for(port)
        with_headers = {"url": url, "headers": {"x-test": "1"}}
        running = McpServers(config(tmp_path, plain={"url": url}, headed=with_headers))
        assert {tool.name for tool in running.tools} >= {"plain__add", "headed__add"}
        assert running.call("plain", "add", {"a": 2, "b": 2}, 10) == "4"
        assert running.call("headed", "add", {"a": 2, "b": 3}, 10) == "5"
        process.kill()
        process.wait()
        with pytest.raises(ToolError, match="plain: "):
            running.call("plain", "add", {"a": 2, "b": 2}, 3)
        running.close()
    finally:
        process.kill()
        process.wait()


def wait_for(port: int, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            assert time.monotonic() < end, "the server did not start"
            time.sleep(0.1)


@pytest.mark.parametrize(
    ("servers", "said"),
    [
        ({}, "no 'mcpServers'"),
        ({"a": {}}, "either 'command' or 'url'"),
        ({"a": {"command": "x", "url": "y"}}, "either"),
        ({"a": {"command": "x", "argz": []}}, "'argz' is not known"),
        ({"a": 3}, "either"),
    ],
)
def test_configurations_that_are_wrong(servers: dict[str, object], said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        read_config(config(tmp_path, **servers))


def test_a_server_that_does_not_start(tmp_path: Path) -> None:
    for command in ("/nowhere/program", "/bin/false"):
        with pytest.raises(CoterieError, match="MCP server broken: did not start") as refused:
            McpServers(config(tmp_path, broken={"command": command}))
        assert "\n" not in str(refused.value)


def test_a_model_as_a_server(tmp_path: Path) -> None:
    """`coterie mcp` through the official client: the numbers are those of the model in this process."""
    coterie.save(chat_model(), tmp_path / "model")
    model, text = coterie.load(tmp_path / "model"), "the quick brown fox"
    command = {"command": sys.executable, "args": ["-m", "coterie.cli.main", "mcp", str(tmp_path / "model")]}
    command["env"] = {"PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": "1"}  # type: ignore[assignment]
    running = McpServers(config(tmp_path, model=command))
    try:
        assert sorted(tool.name for tool in running.tools) == [
            "model__chat",
            "model__route_explain",
            "model__score",
        ]
        scored = json.loads(running.call("model", "score", {"text": text}, 60))
        ids = model.encode(text)
        expected = model.logprobs(ids).double().sum().item()
        assert scored["tokens"] == len(ids) and scored["logprob"] == pytest.approx(expected, rel=1e-5)
        assert scored["bits_per_byte"] == pytest.approx(-expected / math.log(2) / len(text), rel=1e-5)
        routes = json.loads(running.call("model", "route_explain", {"text": text}, 60))
        assert routes == json.loads(json.dumps(explain_routes(model, text)))
        said = running.call("model", "chat", {"message": "fox", "temperature": 0, "max_tokens": 5}, 60)
        reply = model.chat([{"role": "user", "content": "fox"}], temperature=0, max_tokens=5)
        assert said.strip() == reply.text.strip() or not reply.text.strip()
        with pytest.raises(ToolError, match="the model takes 256"):
            running.call("model", "score", {"text": text * 100}, 60)
    finally:
        running.close()


def test_calls_at_one_time_do_not_meet_in_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server runs tools in threads; what one is told must not be of the other's text."""
    model, texts = chat_model(), ("the quick brown fox", "jumps over")
    expected = [explain_routes(model, text) for text in texts]
    logits, both = model.logits, threading.Barrier(2)

    def together(ids: list[int]) -> Any:
        with contextlib.suppress(threading.BrokenBarrierError):
            both.wait(0.3)
        return logits(ids)

    monkeypatch.setattr(model, "logits", together)
    server = build(model, "tiny")

    async def ask() -> list[Any]:
        return list(
            await asyncio.gather(*(server.call_tool("route_explain", {"text": text}) for text in texts))
        )

    answers = [json.loads(answer.content[0].text) for answer in asyncio.run(ask())]
    assert answers == json.loads(json.dumps(expected))


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts the open files of Linux")
def test_closing_gives_back_what_it_opened(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(2):
        with pytest.raises(CoterieError, match="did not start"):
            McpServers(config(tmp_path, broken={"command": "/bin/false"}))
    assert len(os.listdir("/proc/self/fd")) <= before


def test_routes_are_those_of_the_forward_pass() -> None:
    model = chat_model()
    routes = explain_routes(model, "the fox")
    assert set(routes["layers"]) == {"0", "1"} and "".join(routes["tokens"]).endswith("the fox")
    for layer in routes["layers"].values():
        assert len(layer["experts"]) == len(routes["tokens"])
        for experts, weights in zip(layer["experts"], layer["weights"], strict=True):
            assert len(set(experts)) == 2 and sum(weights) == pytest.approx(1.0, abs=2e-4)
    assert score_text(model, "a")["tokens"] == len(model.encode("a"))
