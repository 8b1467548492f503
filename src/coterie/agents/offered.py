"""The tools that the settings of an agent offer to its model."""

from __future__ import annotations

from typing import Any

from coterie.agents.settings import AgentSettings
from coterie.sandbox.folder import Folder
from coterie.sandbox.outside import Limits, Sandbox, SandboxError
from coterie.sandbox.tools import Calculator, HttpGet, ListFiles, Python, ReadFile, Tool, WriteFile


def offered_tools(settings: AgentSettings) -> tuple[list[Tool], dict[str, Any]]:
    """The tools, and what a transcript should record about them. The caller closes the tools.

    Errors: `SandboxError` when Python is wanted and this machine cannot confine it; `FolderError`,
    `ConfigError` and `CoterieError` for a folder or an MCP server that cannot be used.
    """
    tools: list[Tool] = [Calculator()]
    facts: dict[str, Any] = {}
    if settings.python:
        sandbox = Sandbox(Limits(seconds=settings.tool_seconds))
        try:
            facts["sandbox"] = list(sandbox.probe())
        except SandboxError as error:
            raise SandboxError(f"{error}; --no-python works without it") from None
        tools.append(Python(sandbox))
    if settings.dir is not None:
        folder = Folder(settings.dir)
        tools += [ListFiles(folder), ReadFile(folder), WriteFile(folder)]
    if settings.allow_http:
        tools.append(HttpGet(settings.allow_http))
    if settings.mcp is not None:
        from coterie.agents.mcp_tools import McpServers  # needs asyncio, and the extra `mcp` is rare

        tools += McpServers(settings.mcp).tools
    return tools, facts
