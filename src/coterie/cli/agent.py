"""`coterie agent` and `coterie mcp`."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from coterie.agents.approval import approver
from coterie.agents.loop import Agent, Budget, resume
from coterie.agents.mcp_tools import McpServers
from coterie.agents.speaker import Sampling
from coterie.agents.terminal import printable
from coterie.cli.opening import speaking
from coterie.config.errors import ConfigError
from coterie.sandbox.outside import Limits, Sandbox, SandboxError
from coterie.sandbox.tools import Calculator, HttpGet, ListFiles, Python, ReadFile, Tool, WriteFile
from coterie.text.chat import Message
from coterie.text.tools import AGENT_SYSTEM


def agent(
    target: str,
    task: str | None,
    opening: dict[str, Any],
    sampling: dict[str, Any],
    budget: dict[str, Any],
    offered: dict[str, Any],
    approve: str,
    files: dict[str, Any],
    as_json: bool,
) -> int:
    """Do a task; the answer on standard output, what happens on standard error. Returns the exit status.

    `offered`: folder, python, hosts, mcp; `files`: transcript, resume, system. Errors: `CoterieError`, one
    line.
    """
    may = approver(approve)
    limits = Budget(**budget)
    if files["resume"] is None and not task:
        raise ConfigError("agent: give a task, or --resume a transcript")
    if files["resume"] is not None and (files["transcript"] or files["system"]):
        raise ConfigError(
            "agent: --resume goes on in its own transcript and conversation; leave out --transcript and --system"
        )
    tools, facts = _tools(offered, limits.tool_seconds)
    try:
        path = files["resume"] or files["transcript"]
        if files["resume"] is not None:
            messages = resume(Path(files["resume"]), tools, task)
        else:
            messages = [Message("system", files["system"] or AGENT_SYSTEM), Message("user", str(task))]
        show = _Show()
        with speaking(target, **opening) as speaker:
            worker = Agent(
                speaker, tools, limits, may, Sampling(**sampling), Path(path) if path else None, show, facts
            )
            outcome = worker.run(messages)
    finally:
        for tool in tools:
            tool.close()
    show.end()
    if as_json:
        print(json.dumps(asdict(outcome) | {"transcript": path}))
    elif outcome.answer and not (sys.stdout.isatty() and sys.stderr.isatty()):  # there it has just been shown
        print(outcome.answer)
    where = f"; go on with --resume {path}" if path and outcome.exit_code else ""
    print(
        f"{outcome.status}: {outcome.steps} replies, {outcome.tokens} tokens, {outcome.seconds:.1f} s{where}",
        file=sys.stderr,
    )
    return outcome.exit_code


def mcp(path: str, dtype: str) -> None:
    """Serve a model over MCP on standard input and output until the input ends."""
    from coterie.agents.mcp_server import build
    from coterie.agents.mcp_tools import require_mcp
    from coterie.infer.model import load

    require_mcp()
    build(load(path, dtype=dtype), path).run("stdio")


def _tools(offered: dict[str, Any], seconds: float) -> tuple[list[Tool], dict[str, Any]]:
    """The tools that the options ask for, and what the transcript should know about them."""
    from coterie.sandbox.folder import Folder

    tools: list[Tool] = [Calculator()]
    facts: dict[str, Any] = {}
    if offered["python"]:
        sandbox = Sandbox(Limits(seconds=seconds))
        try:
            facts["sandbox"] = list(sandbox.probe())
        except SandboxError as error:
            raise SandboxError(f"{error}; --no-python goes without") from None
        tools.append(Python(sandbox))
    if offered["folder"] is not None:
        folder = Folder(Path(offered["folder"]))
        tools += [ListFiles(folder), ReadFile(folder), WriteFile(folder)]
    if offered["hosts"]:
        tools.append(HttpGet(offered["hosts"]))
    if offered["mcp"] is not None:
        tools += McpServers(Path(offered["mcp"])).tools
    return tools, facts


class _Show:
    """Shows on standard error what the model says and does, control characters spelt out."""

    def __init__(self) -> None:
        plain = not sys.stderr.isatty() or os.environ.get("NO_COLOR")
        self._dim, self._plain = ("", "") if plain else ("\033[2m", "\033[0m")
        self._middle = False

    def __call__(self, kind: str, text: str) -> None:
        if kind in ("text", "reasoning"):
            self._middle = True
            sys.stderr.write(f"{self._dim}{printable(text)}{self._plain}")
            sys.stderr.flush()
            return
        self.end()
        line = printable(text if len(text) <= 500 else f"{text[:500]}... ({len(text)} characters)")
        print(f"{'->' if kind == 'call' else '<-'} {line}", file=sys.stderr)

    def end(self) -> None:
        """Begin a new line if something stands on this one."""
        if self._middle:
            print(file=sys.stderr)
        self._middle = False
