"""A model as an MCP server on standard input and output (extra `mcp`): the tools of `model_tools`.

Calls run at one time in the one engine. A cancelled call leaves it at once, whatever cancels it: the client's
`notifications/cancelled`, its time-out, or the end of the connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from coterie import __version__
from coterie.config.extras import require_extra
from coterie.hosting.errors import explain
from coterie.hosting.host import Host
from coterie.hosting.service import Service
from coterie.hosting.settings import ServeSettings
from coterie.infer.model import LanguageModel
from coterie.serve.mcp_stdio import serve_stdio
from coterie.serve.model_tools import CallProgress, ModelTool, model_tools

if TYPE_CHECKING:
    from mcp import types
    from mcp.server import Server

_LOOK = 0.1  # seconds between looks at a call's progress
# A day: nobody else waits for this model, a slow machine may take long, and a client can cancel.
_TIMEOUT = 86400.0


def require_mcp() -> None:
    """Errors: `ConfigError` without the extra."""
    require_extra("mcp", "MCP needs its package", "'coterie[mcp]'")


def run(model: LanguageModel, name: str) -> None:
    """Serve a model over MCP until standard input ends. Errors: `ConfigError` without the extra."""
    require_mcp()
    settings = ServeSettings.from_dict(
        {"request_timeout": _TIMEOUT, "page": False, "store": False}, where="mcp"
    )
    host = Host.of(Service(model, name, settings))
    host.start()
    try:
        asyncio.run(serve_stdio(build(host)))
    finally:
        host.stop()


def build(host: Host) -> Server[Any]:
    """The MCP server of a started host, not yet running. Errors: `ConfigError` without the extra."""
    require_mcp()
    from mcp import types
    from mcp.server import Server
    from mcp.server.context import ServerRequestContext
    from mcp.shared.exceptions import MCPError

    tools = {tool.name: tool for tool in model_tools(host)}

    async def listing(_: Any, __: types.PaginatedRequestParams | None) -> types.ListToolsResult:
        return types.ListToolsResult(tools=[_described(tool) for tool in tools.values()])

    async def call(
        context: ServerRequestContext[Any, Any], params: types.CallToolRequestParams
    ) -> types.CallToolResult:
        if params.name not in tools:
            known = ", ".join(tools)
            raise MCPError(types.INVALID_PARAMS, f"unknown tool '{params.name[:60]}'; known: {known}")
        progress = CallProgress()

        async def report() -> None:
            if (seen := progress.news()) is not None:
                await context.session.report_progress(seen.value, seen.total, seen.message)

        async def reports() -> None:
            while True:
                await report()
                await asyncio.sleep(_LOOK)

        reporting = asyncio.create_task(reports())
        try:
            result = await answer(tools[params.name], params.arguments or {}, progress)
        finally:
            reporting.cancel()
        await report()
        return result

    return Server(
        "coterie",
        version=__version__,
        instructions=f"The language model {host.default.name}.",
        on_list_tools=listing,
        on_call_tool=call,
    )


async def answer(tool: ModelTool, given: Mapping[str, Any], progress: CallProgress) -> types.CallToolResult:
    """The result of one call; a failure is a result too: one line, which the calling model can read."""
    from mcp import types

    try:
        text, result = await tool.work(tool.read(given), progress)
    except Exception as error:
        line = types.TextContent(type="text", text=str(explain(error)))
        return types.CallToolResult(content=[line], is_error=True)
    return types.CallToolResult(
        content=[types.TextContent(type="text", text=text)], structured_content=result.model_dump()
    )


def _described(tool: ModelTool) -> types.Tool:
    """The tool as clients see it. The hints: no call changes anything, here or elsewhere."""
    from mcp import types

    return types.Tool(
        name=tool.name,
        title=tool.title,
        description=tool.description,
        input_schema=tool.arguments.model_json_schema(),
        output_schema=tool.result.model_json_schema(mode="serialization"),
        annotations=types.ToolAnnotations(
            title=tool.title,
            read_only_hint=True,
            destructive_hint=False,
            idempotent_hint=True,
            open_world_hint=False,
        ),
    )
