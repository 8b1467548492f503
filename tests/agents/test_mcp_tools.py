"""MCP with the official client and server library, over real pipes: tools of servers in our loop."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from coterie.agents.loop import Agent
from coterie.agents.mcp_tools import McpServers, _check_name, read_config
from coterie.config.errors import ConfigError, CoterieError
from coterie.sandbox.tools import ToolError
from coterie.text.chat import Message
from tests.agents.fake import Script, calls

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


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts the open files of Linux")
def test_closing_gives_back_what_it_opened(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(2):
        with pytest.raises(CoterieError, match="did not start"):
            McpServers(config(tmp_path, broken={"command": "/bin/false"}))
    assert len(os.listdir("/proc/self/fd")) <= before


@pytest.mark.parametrize("name", ["", "a b", "a\n", "\x1b[31m", "<|im_end|>", "x" * 129])
def test_names_that_could_pass_for_something_else_are_refused(name: str) -> None:
    with pytest.raises(CoterieError, match="a tool is called") as caught:
        _check_name(name)
    assert str(caught.value).isprintable()
    _check_name("files/read-1.2_x")


@pytest.mark.parametrize("depth", [None, 100_000])
def test_results_of_a_hostile_server_are_errors_that_the_model_reads(depth: int | None) -> None:
    nested: list[object] = []
    for _ in range(depth or 0):
        nested = [nested]
    result = SimpleNamespace(content=[] if depth else None, structured_content=nested, is_error=False)
    servers = object.__new__(McpServers)
    servers._clients = {"h": SimpleNamespace(call_tool=lambda *_, **__: None)}
    servers._wait = lambda work, seconds: result  # type: ignore[method-assign]
    with pytest.raises(ToolError, match="h: "):
        servers.call("h", "t", {}, 1.0)
