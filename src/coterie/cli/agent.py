"""`coterie agent`: let a model do a task with tools. `coterie mcp`: offer a model as such a tool."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coterie.agents.settings import AgentSettings
from coterie.cli.connect import connect, recommended
from coterie.cli.options import REPLY, Dtype, Json, KeyFile, Model, Served, Target, Template, Weights
from coterie.cli.output import answer, note
from coterie.cli.settings_options import with_options

if TYPE_CHECKING:
    from coterie.agents.loop import Outcome

TOOLS, BUDGETS, FILES = "Tools", "Budgets (exit status 3 when one runs out)", "Conversation"
SECTIONS = {
    TOOLS: ("dir", "python", "allow_http", "mcp", "approve"),
    BUDGETS: ("max_steps", "budget_tokens", "budget_seconds", "tool_seconds"),
    FILES: ("transcript", "resume"),
    REPLY: ("system", "temperature", "top_p", "max_tokens", "seed"),
}


@with_options(AgentSettings, sections=SECTIONS)
def agent(
    model: Target,
    settings: AgentSettings,
    task: Annotated[str | None, typer.Argument(help="What is to be done.")] = None,
    dtype: Dtype = "auto",
    quant: Weights = None,
    template: Template = None,
    api_key_file: KeyFile = None,
    served: Served = None,
    as_json: Json = False,
) -> None:
    """Let a model do a task step by step with tools.

    Exit status: 0 an answer, 3 a budget ran out, 4 a loop, 5 it said nothing, 130 Ctrl-C.
    """
    from coterie.agents.approval import approver
    from coterie.agents.loop import Agent, resume
    from coterie.agents.offered import offered_tools
    from coterie.config import ConfigError
    from coterie.text.chat import Message
    from coterie.text.tools import AGENT_SYSTEM

    may = approver(settings.approve)
    if settings.resume is None and not task:
        raise ConfigError("agent: give a task, or --resume a transcript")
    tools, facts = offered_tools(settings)
    show = _Show()
    try:
        if settings.resume is not None:
            messages = resume(settings.resume, tools, task)
        else:
            messages = [Message("system", settings.system or AGENT_SYSTEM), Message("user", str(task))]
        with connect(model, dtype, api_key_file, served, template, quant) as speaker:
            limits, drawn, file = settings.budget, settings.sampling, settings.file
            outcome = Agent(speaker, tools, limits, may, drawn, file, show, facts).run(messages)
    finally:
        for tool in tools:
            tool.close()
    show.end()
    _report(outcome, settings.file, as_json)
    sys.exit(outcome.exit_code)


def _report(outcome: Outcome, path: Path | None, as_json: bool) -> None:
    """The answer on standard output, the figures on standard error."""
    # In a terminal the answer was on the screen as it came, and both streams end there.
    shown = sys.stdout.isatty() and sys.stderr.isatty()
    lines = [outcome.answer] if outcome.answer and not shown else []
    answer(asdict(outcome) | {"transcript": path and str(path)}, as_json, lines)
    where = f"; continue with --resume {path}" if path and outcome.exit_code else ""
    figures = f"{outcome.steps} replies, {outcome.tokens} tokens, {outcome.seconds:.1f} s"
    note(f"{outcome.status}: {figures}{where}")


def mcp(model: Model, dtype: Dtype = "auto", quant: Weights = None, template: Template = None) -> None:
    """Offer a model as an MCP server on standard input and output: tools chat, score and route_explain."""
    from coterie.serve.mcp import require_mcp, run

    require_mcp()  # before a large model is read
    from coterie.hosting.service import default_name
    from coterie.infer.model import load

    loaded = load(model, dtype=dtype, template=template, quant=quant or "stored")
    loaded.sampling = recommended(loaded)
    run(loaded, default_name(model))


class _Show:
    """Prints on standard error what the model says and does, with control characters escaped."""

    def __init__(self) -> None:
        plain = not sys.stderr.isatty() or os.environ.get("NO_COLOR")
        self._dim, self._plain = ("", "") if plain else ("\033[2m", "\033[0m")
        self._middle = False

    def __call__(self, kind: str, text: str) -> None:
        from coterie.text.printable import printable

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
