"""Rollouts: replies to problems, sampled by the engine from the weights that are trained, with their rewards.

Token ids are the only truth: what was sampled is what is learnt from, and no text of the model is ever
tokenised again. A reply that calls tools is followed by given tokens (`infer.plays`) and a further reply.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from coterie.config.errors import ConfigError
from coterie.data.rows import Row
from coterie.infer.engine import Engine
from coterie.infer.plays import Play, PlayLimits, Segment, play_out
from coterie.infer.request import RequestOptions, TokenRouting
from coterie.infer.sampling import SamplingParams
from coterie.nn.transformer import Transformer
from coterie.tasks.problem import TaskFamily, TaskProblem, TaskVerdict
from coterie.tasks.rows import INSTRUCTION
from coterie.text.chat import conversation_ids
from coterie.text.messages import Message
from coterie.text.reply_formats import format_of
from coterie.text.tokenizer import Tokenizer
from coterie.text.tool_turns import ToolTurns

if TYPE_CHECKING:
    import numpy.typing as npt

MAX_BATCH = 256  # sequences in one pass
KEPT_BYTES = 2**30  # of keys and values between two replies of a conversation


@dataclass(frozen=True)
class Rollout:
    """One whole conversation from the prompt to the last reply, as tokens.

    `segments`: given and sampled ones in turn; the first is the prompt. `reasoning` and `content`: those of
    the last reply. `truncated`: it did not end by itself. `messages`: what was said after the prompt, replies
    and results of tools. `cached`: tokens of the prompt that were read for another reply.
    """

    segments: tuple[Segment, ...]
    reasoning: str
    content: str
    truncated: bool
    verdict: TaskVerdict
    reward: float
    messages: tuple[Message, ...] = ()
    cached: int = 0

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        """What stands before the first sampled token."""
        return self.segments[0].ids

    @cached_property
    def whole(self) -> tuple[int, ...]:
        """All tokens in order."""
        return tuple(token for segment in self.segments for token in segment.ids)

    @cached_property
    def ids(self) -> tuple[int, ...]:
        """The sampled tokens, those that ended a reply included."""
        return tuple(token for segment in self.segments if segment.sampled for token in segment.ids)

    @cached_property
    def logprobs(self) -> tuple[float, ...]:
        """One for each of `ids`."""
        return tuple(value for segment in self.segments for value in segment.logprobs)

    @cached_property
    def routing(self) -> tuple[TokenRouting, ...]:
        """One for each of `ids` (or none at all), at the position of the row that `places` tells."""
        return tuple(one for segment in self.segments for one in segment.routing)

    @cached_property
    def places(self) -> npt.NDArray[np.int64]:
        """Where in the row each of `ids` is the target: the position that it was drawn from."""
        first, found = 0, []
        for segment in self.segments:
            if segment.sampled:
                found.append(np.arange(first, first + len(segment.ids), dtype=np.int64) - 1)
            first += len(segment.ids)
        return np.concatenate(found)

    @property
    def transcript(self) -> str:
        """What was said after the prompt, for people."""
        return "\n".join(line for message in self.messages for line in _lines(message))

    @property
    def num_replies(self) -> int:
        """How many times the model wrote."""
        return sum(segment.sampled for segment in self.segments)

    def row(self, advantage: float) -> Row:
        """One row to learn from: the streams of `train.policy_gradient.PolicyGradient`."""
        whole = np.asarray(self.whole, dtype=np.int32)
        count = len(whole) - 1
        learnt = np.zeros(count, dtype=np.float32)
        learnt[self.places] = 1.0
        old = np.zeros(count, dtype=np.float32)
        old[self.places] = self.logprobs
        streams: dict[str, Any] = {
            "sample": np.zeros(count, dtype=np.int64),
            "advantage": np.full(count, advantage, dtype=np.float32),
            "old_logp": old,
        }
        return Row(whole[:-1], whole[1:], learnt, (count,), streams=streams)


@dataclass(frozen=True)
class RolloutGroup:
    """All replies to one problem. Those whose checker failed are left out and counted."""

    problem: TaskProblem
    rollouts: tuple[Rollout, ...]
    num_failed: int = 0
    why_failed: str = ""

    @cached_property
    def rewards(self) -> list[float]:
        """Of each reply."""
        return [rollout.reward for rollout in self.rollouts]

    @property
    def informative(self) -> bool:
        """Whether the rewards differ: otherwise there is nothing to prefer."""
        return len(set(self.rewards)) > 1

    @property
    def num_right(self) -> int:
        """Replies that are right."""
        return sum(rollout.verdict.right for rollout in self.rollouts)


def _lines(message: Message) -> Iterator[str]:
    """One turn for people: reasoning, words, calls; or the result of one."""
    if message.role == "tool":
        yield f"{message.name} gave: {message.text}"
        return
    if message.reasoning:
        yield f"<think>{message.reasoning}</think>"
    if message.text or not message.tool_calls:
        yield message.text
    for call in message.tool_calls:
        yield f"call {call.name}({json.dumps(dict(call.arguments), ensure_ascii=False)})"


def sampling_seed(*key: int) -> int:
    """The seed of one reply: a hash of its place in the run, so replies do not depend on their company."""
    packed = struct.pack(f"<{len(key)}q", *key)
    return int.from_bytes(hashlib.blake2b(packed, digest_size=8).digest(), "little") >> 1


@dataclass
class Sampler:
    """Samples conversations from `model` as it is now, and has their last replies judged.

    `max_tokens`: sampled ones in a conversation. In tasks with tools it has `max_turns` replies at most, and
    `max_context` tokens, results of tools included (None: the positions of the model).
    Errors: `ConfigError` for a prompt that leaves no room for a reply; `DataError` for tools that the chat
    template cannot show as they are generated (`text.tool_turns`).
    """

    model: Transformer
    tokenizer: Tokenizer
    family: TaskFamily
    max_tokens: int
    instruction: bool = False
    reward_weights: Mapping[str, float] = field(default_factory=dict)
    max_turns: int = 16
    max_context: int | None = None

    def __post_init__(self) -> None:
        first = self.family.problem(self.family.levels[0], 0)
        tools = self._described(first)
        self._form = format_of(self.tokenizer.template_for(bool(tools)))
        self._turns = ToolTurns(self.tokenizer, self._head(first), tools) if tools else None
        # Replies to one prompt share it while they run; with tools later replies begin with what earlier ones
        # kept.
        kept = KEPT_BYTES if tools else 1
        self._engine = Engine(self.model, self.tokenizer, max_batch=MAX_BATCH, prefix_bytes=kept)

    @property
    def has_tools(self) -> bool:
        """Whether the task has tools."""
        return self._turns is not None

    def prompt_ids(self, problem: TaskProblem) -> list[int]:
        """The conversation up to where the model begins to write."""
        tools = self._described(problem) or None
        ids = conversation_ids(self.tokenizer, self._head(problem), add_generation_prompt=True, tools=tools)
        if self._limits.context - len(ids) < self.max_tokens:
            raise ConfigError(
                f"task {self.family.name}: a prompt of {len(ids)} tokens and max_tokens {self.max_tokens} "
                f"are more than {self._context_words}; lower max_tokens or the levels"
            )
        return ids

    def groups(
        self,
        problems: Sequence[TaskProblem],
        size: int,
        key: tuple[int, ...],
        routing_of: int = 0,
        temperature: float = 1.0,
        first: int = 0,
        routing: bool = False,
    ) -> list[RolloutGroup]:
        """`size` conversations about each problem, without any filter.

        `key`: where in the run they belong; it seeds them, with the number of the problem from `first` on.
        `routing_of`: of how many groups the first one has its experts kept; with `routing` all have.
        `temperature`: with another one than 1 it is not the policy that is trained.
        """

        def params(number: int, play: Play) -> SamplingParams:
            at, n = divmod(number, size)
            later = (play.num_replies,) if play.num_replies else ()
            seed = sampling_seed(*key, first + at, n, *later)
            return SamplingParams(temperature=temperature, max_tokens=play.room, seed=seed)

        plays = self._begun(problems, size)
        keep = set(range(len(plays))) if routing else {at * size for at in range(routing_of)}
        self._play(plays, params, keep)
        return self._judged(problems, size, plays)

    def greedy(self, problems: Sequence[TaskProblem]) -> list[RolloutGroup]:
        """The most likely conversation about each problem."""
        plays = self._begun(problems, 1)
        self._play(plays, lambda _, play: SamplingParams(temperature=0.0, max_tokens=play.room), set())
        return self._judged(problems, 1, plays)

    def _head(self, problem: TaskProblem) -> list[Message]:
        system = [Message("system", INSTRUCTION)] if self.instruction else []
        return [*system, Message("user", problem.prompt)]

    def _described(self, problem: TaskProblem) -> list[dict[str, Any]]:
        """How the tools of a problem are described to the model."""
        tools = self.family.tools(problem)
        for tool in tools:
            tool.close()
        return [tool.spec() for tool in tools]

    @property
    def _limits(self) -> PlayLimits:
        positions = self.model.config.max_positions
        return PlayLimits(self.max_tokens, self.max_turns, min(positions, self.max_context or positions))

    @property
    def _context_words(self) -> str:
        limit, positions = self._limits.context, self.model.config.max_positions
        return f"the {positions} positions of the model" if limit == positions else f"max_context {limit}"

    def _begun(self, problems: Sequence[TaskProblem], size: int) -> list[Play]:
        """`size` conversations about each problem, with tools made for each."""
        limits, plays = self._limits, []
        for problem in problems:
            ids = self.prompt_ids(problem)
            plays += [
                Play(ids, limits, self._form, self.family.tools(problem), self._turns) for _ in range(size)
            ]
        return plays

    def _play(
        self, plays: Sequence[Play], params: Callable[[int, Play], SamplingParams], keep: set[int]
    ) -> None:
        """Take all conversations to their ends; those in `keep` with routing."""
        training = self.model.training
        self.model.eval()
        try:
            play_out(self._engine, plays, params, lambda n, _: RequestOptions(routing=n in keep))
        finally:
            self._engine.prefixes.drop()  # the weights change before the next replies
            self.model.train(training)

    def _judged(
        self, problems: Sequence[TaskProblem], size: int, plays: Sequence[Play]
    ) -> list[RolloutGroup]:
        asked = [problem for problem in problems for _ in range(size)]
        verdicts = self.family.judge_all(asked, [play.final for play in plays])
        groups = []
        for at, problem in enumerate(problems):
            found, failed = [], []
            for number in range(at * size, (at + 1) * size):
                verdict, play = verdicts[number], plays[number]
                if verdict.failed or play.ended == "tool":
                    failed.append(play.why or verdict.why)
                else:
                    found.append(self._rollout(play, verdict))
            groups.append(RolloutGroup(problem, tuple(found), len(failed), failed[0] if failed else ""))
        return groups

    def _rollout(self, play: Play, verdict: TaskVerdict) -> Rollout:
        last = next(message for message in reversed(play.messages) if message.role == "assistant")
        if self.has_tools and play.ended != "answer":
            verdict = replace(verdict, why=f"{play.why or f'out of {play.ended}'}; {verdict.why}")
        return Rollout(
            tuple(play.segments),
            last.reasoning or "",
            last.text,
            play.ended != "answer",
            verdict,
            verdict.reward(self.reward_weights),
            tuple(play.messages),
            play.cached,
        )
