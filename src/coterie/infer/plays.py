"""Conversations in progress: a reply is sampled, the tools that it calls are called, and so on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from coterie.config.errors import CoterieError, DataError
from coterie.config.json_text import JsonError, JsonLimits, parse_json_object
from coterie.infer.engine import Engine
from coterie.infer.request import Reply, RequestOptions, TokenRouting
from coterie.infer.sampling import SamplingParams
from coterie.sandbox.outside import SandboxError
from coterie.sandbox.tools import Tool, usable_tool
from coterie.text.messages import Message
from coterie.text.printable import capped, joined
from coterie.text.replies import NumberedCall, parse_reply
from coterie.text.reply_formats import ReplyFormat
from coterie.text.tool_turns import ToolTurns, result_message

# `answer`: the last reply calls nothing. `tokens`, `turns`, `context`: it is out of them. `template`: the
# chat template cannot show the calls. `tool`: a tool itself did not work.
Ending = Literal["answer", "tokens", "turns", "context", "template", "tool"]

# Of the place of a conversation among those that are played and of the conversation itself.
Params = Callable[[int, "Play"], SamplingParams]
Options = Callable[[int, "Play"], RequestOptions]

TOOL_THREADS = 8
_SECONDS = 10.0  # for one call
_LONGEST = 16_000  # characters of a result


@dataclass(frozen=True)
class Segment:
    """Tokens of a rollout from one side: given (a prompt, results of tools) or sampled (what is learnt).

    `logprobs`: of each sampled token, under the distribution that it was sampled from; () for given ones.
    `routing`: the experts at the position that each sampled token was drawn from, where they were asked for.
    """

    ids: tuple[int, ...]
    logprobs: tuple[float, ...] = ()
    routing: tuple[TokenRouting, ...] = ()

    @property
    def sampled(self) -> bool:
        """Whether the model wrote it."""
        return bool(self.logprobs)


@dataclass(frozen=True)
class PlayLimits:
    """Sampled tokens of all replies together, replies, and tokens of the whole conversation."""

    tokens: int
    turns: int
    context: int


class Play:
    """One conversation: `segments` of given and sampled tokens, and the `messages` after the prompt.

    `form`: how replies are written; None: as they are, as those of a model without a chat template.
    `opened`: the prompt ends inside reasoning (None: look for the end of some). `turns`: what the chat
    template writes around calls, where there are `tools`, which are made for this conversation alone.
    `ended`: why it is over; None while it goes on. `why`: what did not work (`tool`, `template`).
    """

    def __init__(
        self,
        prompt: Sequence[int],
        limits: PlayLimits,
        form: ReplyFormat | None,
        tools: Sequence[Tool] = (),
        turns: ToolTurns | None = None,
        opened: bool | None = None,
    ) -> None:
        self.segments = [Segment(tuple(prompt))]
        self.messages: list[Message] = []
        self.ended: Ending | None = None
        self.why = ""
        self.num_replies = 0
        self.cached = 0  # tokens of the prompt that were read for another reply
        self._tools = {tool.name: tool for tool in tools}
        self._limits, self._form, self._turns, self._opened = limits, form, turns, opened
        self._ids = list(prompt)
        self._calls: list[NumberedCall] = []
        self._results: list[Message] = []

    @property
    def ids(self) -> list[int]:
        """All tokens so far: the prompt of the next reply."""
        return self._ids

    @property
    def final(self) -> str:
        """The text that is judged: that of the last reply, and nothing where it called tools."""
        last = self.messages[-1]
        return last.text if last.role == "assistant" and not last.tool_calls else ""

    @property
    def room(self) -> int:
        """How many tokens the next reply may have."""
        sampled = sum(len(segment.ids) for segment in self.segments if segment.sampled)
        return min(self._limits.tokens - sampled, self._limits.context - len(self._ids))

    def add(self, reply: Reply, routing: Sequence[TokenRouting]) -> None:
        """Add a sampled reply."""
        cut = reply.finish_reason != "stop"
        if self._form is None:
            message = Message("assistant", reply.text)
        elif self._turns is None:
            message = parse_reply(reply.text, self._form, self._opened)
        else:
            message, self._calls = self._turns.read(self._ids, reply.text, cut)
        self.cached += reply.cached if self.num_replies == 0 else 0
        self.segments.append(Segment(tuple(reply.ids), tuple(reply.logprobs), tuple(routing)))
        self._ids += reply.ids
        self.messages.append(message)
        self.num_replies += 1
        if cut:
            self._end("tokens" if len(self._ids) < self._limits.context else "context")
        elif not self._calls:
            self._end("answer")
        elif self.num_replies >= self._limits.turns:
            self._end("turns")

    def call(self) -> None:
        """Make the calls of the last reply, in order; nothing of the model is needed for it."""
        try:
            self._results = [
                result_message(numbered.call, tool_result(self._tools, numbered)) for numbered in self._calls
            ]
        except Exception as error:  # whatever a task's tool raises is no result, and nothing to be paid for
            what = " ".join(str(error).split())
            self._end("tool", f"a tool did not work: {type(error).__name__}: {what}")

    def go_on(self) -> None:
        """Append what follows the last reply: the results, and where the next reply begins."""
        if self.ended is not None:  # a tool did not work
            return
        assert self._turns is not None, "only tools have results"
        try:
            given = self._turns.after(self._results)
        except DataError as error:
            self._end("template", str(error))
            return
        self.messages += self._results
        if len(self._ids) + len(given) >= self._limits.context:
            self._end("context")
            return
        self.segments.append(Segment(given))
        self._ids += given
        if self.room <= 0:
            self._end("tokens")

    def _end(self, ended: Ending, why: str = "") -> None:
        self.ended, self.why = ended, why
        if not self.segments[-1].sampled:
            self.segments.pop()  # nothing was sampled after it
        for tool in self._tools.values():
            tool.close()


def play_out(engine: Engine, plays: Sequence[Play], params: Params, options: Options) -> None:
    """Take all conversations to their ends, turn by turn.

    All replies of a turn are generated together, and then all of their calls made together, so that what is
    sampled does not depend on how long tools take. Errors: as `Engine.add`.
    """
    with ThreadPoolExecutor(TOOL_THREADS) as pool:
        while open_plays := [pair for pair in enumerate(plays) if pair[1].ended is None]:
            _turn(engine, [(play, params(n, play), options(n, play)) for n, play in open_plays])
            called = [play for _, play in open_plays if play.ended is None]
            list(pool.map(Play.call, called))
            for play in called:
                play.go_on()


def _turn(engine: Engine, wanted: Sequence[tuple[Play, SamplingParams, RequestOptions]]) -> None:
    """One reply for each."""
    numbers: dict[int, int] = {}
    replies = [Reply() for _ in wanted]
    routings: list[list[TokenRouting]] = [[] for _ in wanted]
    try:
        for number, (play, params, options) in enumerate(wanted):
            numbers[engine.add(play.ids, params, options)] = number
        while engine.busy:
            for event in engine.step():
                number = numbers[event.request]
                replies[number].add(event)
                if event.routing is not None:
                    routings[number].append(event.routing)
    finally:
        for request in numbers:
            engine.cancel(request)
    for (play, _, _), reply, routing in zip(wanted, replies, routings, strict=True):
        play.add(reply, routing)


def tool_result(tools: dict[str, Tool], numbered: NumberedCall) -> str:
    """The result of a call as the model sees it, which begins with `error:` where the call failed.

    Errors: `SandboxError`, and whatever else is not the call's fault.
    """
    call = numbered.call
    try:
        broken = _broken(numbered) if numbered.broken else None
        tool = usable_tool(tools, call.name, call.arguments, broken)
        return capped(joined(tool.call(call.arguments, _SECONDS)), _LONGEST)
    except SandboxError:
        raise
    except CoterieError as error:
        return capped(joined(f"error: {error}"), _LONGEST)


def _broken(numbered: NumberedCall) -> str:
    try:
        parse_json_object(numbered.arguments or "{}", JsonLimits(repeated_keys=True))
    except JsonError as error:
        return f"it {error}: {numbered.arguments[:200]}"
    return numbered.arguments[:200]
