"""`coterie agent`: let a model do a task with tools. `coterie mcp`: offer a model as such a tool."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coterie.cli.connect import connect
from coterie.cli.options import (
    Dtype,
    Json,
    KeyFile,
    Longest,
    Model,
    Seed,
    Served,
    System,
    Target,
    Temperature,
    TopP,
)
from coterie.cli.output import answer, note

if TYPE_CHECKING:
    from coterie.agents.loop import Outcome
    from coterie.sandbox.tools import Tool

TOOLS = "Tools"
BUDGETS = "Budgets (exit status 3 when one runs out)"
FILES = "Conversation"


Dir = Annotated[
    str | None,
    typer.Option("--dir", help="Folder whose files it may read, list and write.", rich_help_panel=TOOLS),
]
UsePython = Annotated[
    bool, typer.Option("--python/--no-python", help="Python in the sandbox.", rich_help_panel=TOOLS)
]
Hosts = Annotated[
    list[str] | None,
    typer.Option("--allow-http", help="Host it may fetch pages of (repeatable).", rich_help_panel=TOOLS),
]
McpFile = Annotated[
    str | None,
    typer.Option(help="File with MCP servers (mcpServers) whose tools it may use.", rich_help_panel=TOOLS),
]
Approve = Annotated[
    str,
    typer.Option(
        help="Calls that write: ask, all or none; without a terminal ask is none.", rich_help_panel=TOOLS
    ),
]
Steps = Annotated[
    int, typer.Option("--max-steps", help="Replies it may give.", min=1, rich_help_panel=BUDGETS)
]
BudgetTokens = Annotated[
    int, typer.Option(help="Tokens read and written in all.", min=1, rich_help_panel=BUDGETS)
]
BudgetSeconds = Annotated[float, typer.Option(help="Seconds in all.", min=1, rich_help_panel=BUDGETS)]
ToolSeconds = Annotated[
    float, typer.Option(help="Seconds for one call of a tool.", min=0.1, rich_help_panel=BUDGETS)
]
Transcript = Annotated[
    str | None,
    typer.Option(help="File for the conversation: tuning data, and to resume.", rich_help_panel=FILES),
]
Resume = Annotated[
    str | None,
    typer.Option(help="Continue a transcript (TASK, if given, is said next).", rich_help_panel=FILES),
]


def agent(
    model: Target,
    task: Annotated[str | None, typer.Argument(help="What is to be done.")] = None,
    folder: Dir = None,
    python: UsePython = True,
    allow_http: Hosts = None,
    mcp: McpFile = None,
    approve: Approve = "ask",
    max_steps: Steps = 20,
    budget_tokens: BudgetTokens = 200_000,
    budget_seconds: BudgetSeconds = 900,
    tool_seconds: ToolSeconds = 30,
    transcript: Transcript = None,
    resume: Resume = None,
    system: System = None,
    temperature: Temperature = 0.7,
    top_p: TopP = 0.95,
    max_tokens: Longest = None,
    seed: Seed = None,
    dtype: Dtype = "float32",
    api_key_file: KeyFile = None,
    served: Served = None,
    as_json: Json = False,
) -> None:
    """Let a model do a task step by step with tools.

    Exit status: 0 an answer, 3 a budget ran out, 4 a loop, 5 it said nothing, 130 Ctrl-C.
    """
    from coterie.agents.approval import approver
    from coterie.agents.loop import Agent, Budget
    from coterie.agents.loop import resume as resumed
    from coterie.agents.speaker import Sampling
    from coterie.config import ConfigError
    from coterie.text.chat import Message
    from coterie.text.tools import AGENT_SYSTEM

    may = approver(approve)
    limits = Budget(max_steps, budget_tokens, budget_seconds, tool_seconds)
    sampling = Sampling(temperature, top_p, max_tokens, seed)
    if resume is None and not task:
        raise ConfigError("agent: give a task, or --resume a transcript")
    if resume is not None and (transcript or system):
        raise ConfigError("agent: --resume has its own transcript and --system; leave out both")
    tools, facts = _tools(folder, python, allow_http or [], mcp, limits.tool_seconds)
    path = resume or transcript
    show = _Show()
    try:
        if resume is not None:
            messages = resumed(Path(resume), tools, task)
        else:
            messages = [Message("system", system or AGENT_SYSTEM), Message("user", str(task))]
        with connect(model, dtype, api_key_file, served) as speaker:
            file = Path(path) if path else None
            outcome = Agent(speaker, tools, limits, may, sampling, file, show, facts).run(messages)
    finally:
        for tool in tools:
            tool.close()
    show.end()
    _report(outcome, path, as_json)
    sys.exit(outcome.exit_code)


def _report(outcome: Outcome, path: str | None, as_json: bool) -> None:
    """The answer on standard output, the figures on standard error."""
    # In a terminal the answer was on the screen as it came, and both streams end there.
    shown = sys.stdout.isatty() and sys.stderr.isatty()
    lines = [outcome.answer] if outcome.answer and not shown else []
    answer(asdict(outcome) | {"transcript": path}, as_json, lines)
    where = f"; continue with --resume {path}" if path and outcome.exit_code else ""
    figures = f"{outcome.steps} replies, {outcome.tokens} tokens, {outcome.seconds:.1f} s"
    note(f"{outcome.status}: {figures}{where}")


def mcp(model: Model, dtype: Dtype = "float32") -> None:
    """Offer a model as an MCP server on standard input and output: tools chat, score and route_explain."""
    from coterie.serve.mcp import run

    run(model, dtype)


def _tools(
    folder: str | None, python: bool, hosts: list[str], mcp_file: str | None, seconds: float
) -> tuple[list[Tool], dict[str, Any]]:
    """The tools that the options ask for, and what the transcript should record about them."""
    from coterie.agents.mcp_tools import McpServers
    from coterie.sandbox.folder import Folder
    from coterie.sandbox.outside import Limits, Sandbox, SandboxError
    from coterie.sandbox.tools import Calculator, HttpGet, ListFiles, Python, ReadFile, WriteFile

    tools: list[Tool] = [Calculator()]
    facts: dict[str, Any] = {}
    if python:
        sandbox = Sandbox(Limits(seconds=seconds))
        try:
            facts["sandbox"] = list(sandbox.probe())
        except SandboxError as error:
            raise SandboxError(f"{error}; --no-python works without it") from None
        tools.append(Python(sandbox))
    if folder is not None:
        root = Folder(Path(folder))
        tools += [ListFiles(root), ReadFile(root), WriteFile(root)]
    if hosts:
        tools.append(HttpGet(hosts))
    if mcp_file is not None:
        tools += McpServers(Path(mcp_file)).tools
    return tools, facts


class _Show:
    """Prints on standard error what the model says and does, with control characters escaped."""

    def __init__(self) -> None:
        plain = not sys.stderr.isatty() or os.environ.get("NO_COLOR")
        self._dim, self._plain = ("", "") if plain else ("\033[2m", "\033[0m")
        self._middle = False

    def __call__(self, kind: str, text: str) -> None:
        from coterie.agents.terminal import printable

        if kind in ("text", "reasoning"):
            self._middle = True
            sys.stderr.write(f"{self._dim}{printable(text)}{self._plain}")
            sys.stderr.flush()
            return
        self.end()
        line = printable(text if len(text) <= 500 else f"{text[:500]}... ({len(text)} characters)")
        print(f"{'->' if kind == 'call' else '<-'} {line}", file=sys.stderr)

    def end(self) -> None:
        """End the current line if anything is on it."""
        if self._middle:
            print(file=sys.stderr)
        self._middle = False
