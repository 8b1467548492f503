"""The tool-using loop: the model asks for calls and sees their results, until it answers or a budget ends it.

The transcript is tuning data.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from coterie.agents.speaker import Kind, Sampling, Speaker, Turn
from coterie.agents.transcript import read_conversation, write_row
from coterie.config.errors import CoterieError, DataError
from coterie.sandbox.tools import Tool, ToolError, usable_tool
from coterie.text.chat import Message, ToolCall
from coterie.text.printable import capped, joined

Status = Literal[
    "done", "empty", "steps", "tokens", "seconds", "cut", "loop", "interrupted", "failed", "running"
]
# Exit codes of the program; 1 and 2 are errors as for every verb, 130 is Ctrl-C.
EXIT_CODES: dict[str, int] = {
    "done": 0,
    "steps": 3,
    "tokens": 3,
    "seconds": 3,
    "cut": 3,
    "loop": 4,
    "empty": 5,
    "interrupted": 130,
}
Approve = Callable[[Tool, Mapping[str, Any]], bool]
Show = Callable[[str, str], None]


@dataclass(frozen=True)
class Budget:
    """What a task may use: replies of the model, tokens read and written in all, and seconds.

    `tool_seconds`: for one call of a tool. `result`: characters of its result that the model sees. `repeats`:
    the same call with the same result this often is a loop.
    """

    steps: int = 20
    tokens: int = 200_000
    seconds: float = 900.0
    tool_seconds: float = 30.0
    result: int = 16_000
    repeats: int = 3


@dataclass(frozen=True)
class Outcome:
    """How a task ended (`done` with an answer, or what stopped it), and what it used."""

    status: Status
    answer: str
    steps: int
    tokens: int
    seconds: float

    @property
    def exit_code(self) -> int:
        """The exit status of the program for this outcome."""
        return EXIT_CODES[self.status]


class _OutOf(Exception):
    """A budget ran out while the model was writing; the argument names it."""

    def __init__(self, status: Status) -> None:
        super().__init__(status)
        self.status: Status = status


class Agent:
    """One model, its tools and its limits.

    `approve` decides on every call of a tool that writes. `transcript`: a file that is rewritten after every
    message. `show` is called with ("text" | "reasoning" | "call" | "result", text) as things happen. `facts`:
    further fields of the transcript.
    """

    def __init__(
        self,
        speaker: Speaker,
        tools: Sequence[Tool],
        budget: Budget | None = None,
        approve: Approve = lambda tool, arguments: False,
        sampling: Sampling | None = None,
        transcript: Path | None = None,
        show: Show = lambda kind, text: None,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        self.speaker = speaker
        self.tools = {tool.name: tool for tool in tools}
        if len(self.tools) != len(tools):
            twice = [name for name, count in Counter(tool.name for tool in tools).items() if count > 1]
            raise CoterieError(f"agent: two tools are called {', '.join(twice)}")
        self.budget = budget or Budget()
        self.approve = approve
        self.sampling = sampling or Sampling()
        self.transcript = transcript
        self.show = show
        self.facts = dict(facts or {})
        self.messages: list[Message] = []
        self._steps = self._tokens = self._num_broken = 0
        self._started = time.monotonic()
        self._seen: Counter[str] = Counter()
        self._broken: Mapping[int, str] = {}

    def run(self, messages: Sequence[Message]) -> Outcome:
        """Continue a conversation until the model answers or a limit ends it.

        Calls at its end that have no result yet are made first. Errors: `CoterieError` of the model or
        server; the transcript then holds what happened before.
        """
        self.messages = list(messages)
        status: Status = "failed"
        try:
            status = self._loop()
        except _OutOf as spent:
            status = spent.status
        except KeyboardInterrupt:
            status = "interrupted"
        finally:
            self._write(status)
        last = self.messages[-1]
        answer = last.text if status == "done" else ""
        return Outcome(status, answer, self._steps, self._tokens, time.monotonic() - self._started)

    def _loop(self) -> Status:
        if not self._call_all(unanswered(self.messages)):
            return "loop"
        while True:
            over = self._over()
            if over is not None:
                return over
            turn = self._ask()
            calls = turn.message.tool_calls
            if not calls and turn.finish_reason == "length":
                return "cut"
            if not calls:
                return "done" if turn.message.text.strip() else "empty"
            if not self._call_all(list(enumerate(calls))):
                return "loop"

    def _over(self) -> Status | None:
        if self._steps >= self.budget.steps:
            return "steps"
        if self._tokens >= self.budget.tokens:
            return "tokens"
        return "seconds" if self._left() <= 0 else None

    def _left(self) -> float:
        return self.budget.seconds - (time.monotonic() - self._started)

    def _ask(self) -> Turn:
        """Ask for one reply, add it to the conversation and count what it used."""
        room, pieces = self.budget.tokens - self._tokens, 0

        def on_piece(kind: Kind, text: str) -> None:
            nonlocal pieces
            self.show(kind, text)
            pieces += 1
            if self._left() <= 0 or pieces > room:  # a piece is at least a token
                raise _OutOf("seconds" if self._left() <= 0 else "tokens")

        most = self.sampling.max_tokens
        sampling = self.sampling if most is None else replace(self.sampling, max_tokens=min(most, room))
        specs = [tool.spec() for tool in self.tools.values()]
        turn = self.speaker.say(self.messages, specs, sampling, on_piece=on_piece)
        if turn.prompt_tokens is None or turn.completion_tokens is None:
            raise CoterieError(
                f"agent: {self.speaker.name} reports no token counts, so no budget can be enforced"
            )
        self._steps += 1
        self._tokens += turn.prompt_tokens + turn.completion_tokens
        self._broken = turn.broken
        self._num_broken += len(turn.broken)
        self._add(turn.message)
        return turn

    def _call_all(self, calls: Sequence[tuple[int, ToolCall]]) -> bool:
        """Make the calls of a turn in order; False when one gave the same result too often."""
        going = True
        for number, call in calls:
            self.show("call", f"{call.name}({json.dumps(dict(call.arguments))})")
            result = self._result(number, call)
            self.show("result", result)
            self._add(Message("tool", result, name=call.name, tool_call_id=call.id))
            key = json.dumps([call.name, dict(call.arguments), result], sort_keys=True)
            self._seen[key] += 1
            going = going and self._seen[key] < self.budget.repeats
        self._broken = {}
        return going

    def _result(self, number: int, call: ToolCall) -> str:
        try:
            tool = usable_tool(self.tools, call.name, call.arguments, self._broken.get(number))
            if tool.writes and not self.approve(tool, call.arguments):
                raise ToolError("the user did not allow this call")
            seconds = min(self.budget.tool_seconds, max(self._left(), 0.1))
            return capped(joined(tool.call(call.arguments, seconds)), self.budget.result)
        except (CoterieError, OSError) as error:
            return capped(joined(f"error: {error}"), self.budget.result)

    def _add(self, message: Message) -> None:
        self.messages.append(message)
        self._write("running")

    def _write(self, status: Status) -> None:
        if self.transcript is None:
            return
        facts = {"status": status, "steps": self._steps, "tokens": self._tokens, "model": self.speaker.name}
        facts |= {"broken_calls": self._num_broken}
        facts |= {"seconds": round(time.monotonic() - self._started, 3)} | self.facts
        tools = [tool.spec() for tool in self.tools.values()]
        messages = [message.to_dict() for message in self.messages]
        write_row(self.transcript, {"messages": messages, "tools": tools, "agent": facts})


def unanswered(messages: Sequence[Message]) -> list[tuple[int, ToolCall]]:
    """The calls at the end of a conversation that have no result yet, each with its place in its turn."""
    results = 0
    for message in reversed(messages):
        if message.role == "tool":
            results += 1
        else:
            return list(enumerate(message.tool_calls))[results:] if message.role == "assistant" else []
    return []


def resume(path: Path, tools: Sequence[Tool], task: str | None) -> list[Message]:
    """The conversation of a transcript to continue, with `task` added if given.

    Errors: `DataError` when nothing is left to do, or the transcript used a tool that is not offered now.
    """
    messages, row = read_conversation(path)
    used = {call.name for message in messages for call in message.tool_calls}
    offered = {tool.name for tool in tools}
    known = {spec.get("function", {}).get("name") for spec in row.get("tools") or ()}
    gone = sorted(used & known - offered)
    if gone:
        raise DataError(
            f"{path}: it used {', '.join(gone)}, which is not offered now; give the same options as before"
        )
    open_calls = bool(unanswered(messages))
    finished = bool(messages) and messages[-1].role == "assistant" and not open_calls
    if task is None and (finished or not messages):
        raise DataError(f"{path}: it is finished; give a further task to continue")
    if task is not None and open_calls:
        raise DataError(f"{path}: calls in it wait for their results; resume it without a task first")
    return [*messages, Message("user", task)] if task is not None else list(messages)
