"""Tools of MCP servers, through the official client (extra `mcp`).

We cannot know what such a server does. So every call needs approval, whatever the server says about itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import threading
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

from coterie.config.errors import ConfigError, CoterieError
from coterie.config.extras import require_extra
from coterie.config.files import read_json
from coterie.sandbox.tools import Tool, ToolError

START_SECONDS = 30.0


class McpTool(Tool):
    """A tool of a server, called `server__tool`."""

    writes = True
    _servers: McpServers

    def __init__(self, servers: McpServers, server: str, tool: Any) -> None:
        self.name = f"{server}__{tool.name}"
        self.description = tool.description or tool.name
        self.parameters = tool.input_schema
        self._servers, self._server, self._tool = servers, server, tool.name

    def call(self, arguments: Mapping[str, Any], seconds: float) -> str:
        return self._servers.call(self._server, self._tool, dict(arguments), seconds)

    def close(self) -> None:
        self._servers.close()


class McpServers:
    """The servers of a configuration file in the usual form, running until `close`.

    {"mcpServers": {NAME: {"command", "args", "env", "cwd"} or {"url", "headers"}}}. Errors: `ConfigError` for
    the file, `CoterieError` for a server that does not start in time, each one line.
    """

    def __init__(self, path: Path) -> None:
        require_extra("mcp", "MCP needs its client", "'coterie[mcp]'")
        self._wanted = read_config(path)
        self._clients: dict[str, Any] = {}
        self.tools: list[Tool] = []
        self._loop = asyncio.new_event_loop()
        self._closing = asyncio.Event()
        self._failure: BaseException | None = None
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            self._thread.join(5)
            raise self._failure

    def call(self, server: str, tool: str, arguments: dict[str, Any], seconds: float) -> str:
        """The text of a tool's result. Errors: `ToolError` when its server fails or is too slow."""
        try:
            result = self._wait(
                self._clients[server].call_tool(tool, arguments, read_timeout_seconds=seconds), seconds + 5
            )
            parts = [getattr(part, "text", None) or f"({part.type} left out)" for part in result.content]
            text = "\n".join(parts) or json.dumps(result.structured_content)
        except Exception as error:  # the model sees whatever fails in a foreign server
            raise ToolError(f"{server}: {_line(error)}") from None
        if result.is_error:
            raise ToolError(f"{server}: {text}")
        return text

    def close(self) -> None:
        """Stop the servers."""
        if self._thread.is_alive():
            with contextlib.suppress(RuntimeError):  # the loop has just been closed
                self._loop.call_soon_threadsafe(self._closing.set)
            self._thread.join(10)

    def _wait(self, work: Coroutine[Any, Any, Any], seconds: float) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(seconds)

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        """Open and close every server in one task, as the MCP client requires."""
        server = ""
        try:
            async with contextlib.AsyncExitStack() as stack:
                for server, settings in self._wanted.items():
                    async with asyncio.timeout(START_SECONDS):
                        self._clients[server] = client = await stack.enter_async_context(_client(settings))
                        listed = await client.list_tools()
                        tools = list(listed.tools)
                        while listed.next_cursor:
                            listed = await client.list_tools(cursor=listed.next_cursor)
                            tools += listed.tools
                    for tool in tools:
                        _check_name(tool.name)
                    self.tools += [McpTool(self, server, tool) for tool in tools]
                self._ready.set()
                await self._closing.wait()
        except Exception as error:
            if not self._ready.is_set():
                self._failure = CoterieError(f"MCP server {server}: did not start: {_line(error)}")
        finally:
            self._ready.set()


def read_config(path: Path) -> dict[str, dict[str, Any]]:
    """The servers of a configuration file. Errors: `ConfigError`, one line, naming what is wrong."""
    servers = read_json(path, "give a file with 'mcpServers'").get("mcpServers")
    if not isinstance(servers, dict) or not servers:
        raise ConfigError(f"{path}: has no 'mcpServers', an object of servers by name")
    for name, settings in servers.items():
        if not isinstance(settings, dict) or ("command" in settings) == ("url" in settings):
            raise ConfigError(f"{path}: {name}: give either 'command' or 'url'")
        known: Sequence[str] = (
            ("command", "args", "env", "cwd") if "command" in settings else ("url", "headers")
        )
        unknown = sorted(set(settings) - set(known) - {"type"})
        if unknown:
            raise ConfigError(f"{path}: {name}: '{unknown[0]}' is not known; known: {', '.join(known)}")
    return servers


def _check_name(name: str) -> None:
    """Errors: `CoterieError` for a name that the API and the marks of a call cannot carry."""
    if not re.fullmatch(r"[A-Za-z0-9_./-]{1,128}", name):
        raise CoterieError(f"a tool is called {ascii(name)[:80]}; names are letters, digits and _ . / -")


def _client(settings: Mapping[str, Any]) -> Any:
    from mcp import Client, StdioServerParameters

    if "command" in settings:
        return Client(
            StdioServerParameters(**{key: value for key, value in settings.items() if key != "type"})
        )
    if not settings.get("headers"):
        return Client(settings["url"])
    import httpx2
    from mcp.client.streamable_http import streamable_http_client

    return Client(
        streamable_http_client(settings["url"], http_client=httpx2.AsyncClient(headers=settings["headers"]))
    )


def _line(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return " ".join(str(error).split()) or type(error).__name__
