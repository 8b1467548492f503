"""Rollouts: replies to problems, sampled by the engine from the weights that are trained, with their rewards.

Token ids are the only truth: what was sampled is what is learnt from, and no text is ever tokenised again.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from coterie.config.errors import ConfigError
from coterie.data.rows import Row
from coterie.infer.engine import Engine
from coterie.infer.request import Reply, RequestOptions, TokenRouting
from coterie.infer.sampling import SamplingParams
from coterie.nn.transformer import Transformer
from coterie.tasks.problem import TaskFamily, TaskProblem, TaskVerdict
from coterie.tasks.rows import INSTRUCTION
from coterie.text.chat import conversation_ids
from coterie.text.messages import Message
from coterie.text.replies import parse_reply
from coterie.text.reply_formats import format_of
from coterie.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    import numpy.typing as npt

MAX_BATCH = 256  # sequences in one pass


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
class Rollout:
    """One whole conversation from the prompt to the last reply, as tokens.

    `segments`: given and sampled ones in turn; the first is the prompt. `reasoning` and `content`: those of
    the last reply. `truncated`: it did not end by itself.
    """

    segments: tuple[Segment, ...]
    reasoning: str
    content: str
    truncated: bool
    verdict: TaskVerdict
    reward: float

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


def sampling_seed(*key: int) -> int:
    """The seed of one reply: a hash of its place in the run, so replies do not depend on their company."""
    packed = struct.pack(f"<{len(key)}q", *key)
    return int.from_bytes(hashlib.blake2b(packed, digest_size=8).digest(), "little") >> 1


@dataclass
class Sampler:
    """Samples replies from `model` as it is now, and has them judged.

    Errors: `ConfigError` for a task with tools, and a prompt that leaves no room for a reply.
    """

    model: Transformer
    tokenizer: Tokenizer
    family: TaskFamily
    max_tokens: int
    instruction: bool = False
    reward_weights: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.family.tools(self.family.problem(self.family.levels[0], 0)):
            raise ConfigError(f"task {self.family.name}: tasks with tools cannot be trained by rewards yet")
        self._form = format_of(self.tokenizer.chat_template)
        self._engine = Engine(self.model, self.tokenizer, max_batch=MAX_BATCH)

    def prompt_ids(self, problem: TaskProblem) -> list[int]:
        """The conversation up to where the model begins to write."""
        system = [Message("system", INSTRUCTION)] if self.instruction else []
        messages = [*system, Message("user", problem.prompt)]
        ids = conversation_ids(self.tokenizer, messages, add_generation_prompt=True)
        room = self.model.config.max_positions - len(ids)
        if room < self.max_tokens:
            raise ConfigError(
                f"task {self.family.name}: a prompt of {len(ids)} tokens and max_tokens {self.max_tokens} "
                f"are more than the {self.model.config.max_positions} positions of the model; lower "
                "max_tokens or the levels"
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
        """`size` replies to each problem, without any filter.

        `key`: where in the run they belong; it seeds them, with the number of the problem from `first` on.
        `routing_of`: of how many groups the first reply has its experts kept; with `routing` all replies
        have. `temperature`: with another one than 1 it is not the policy that is trained.
        """
        prompts = [self.prompt_ids(problem) for problem in problems]
        wanted = [
            (
                ids,
                SamplingParams(
                    temperature=temperature, max_tokens=self.max_tokens, seed=sampling_seed(*key, at, n)
                ),
            )
            for at, ids in enumerate(prompts, first)
            for n in range(size)
        ]
        keep = set(range(len(wanted))) if routing else {at * size for at in range(routing_of)}
        replies, routings = self._run(wanted, keep)
        return self._judged(problems, prompts, size, replies, routings)

    def greedy(self, problems: Sequence[TaskProblem]) -> list[RolloutGroup]:
        """The most likely reply to each problem."""
        prompts = [self.prompt_ids(problem) for problem in problems]
        params = SamplingParams(temperature=0.0, max_tokens=self.max_tokens)
        replies, routings = self._run([(ids, params) for ids in prompts], set())
        return self._judged(problems, prompts, 1, replies, routings)

    def _run(
        self, wanted: Sequence[tuple[list[int], SamplingParams]], keep: set[int]
    ) -> tuple[list[Reply], dict[int, list[TokenRouting]]]:
        """All replies, in order, and the routing of those in `keep`."""
        training = self.model.training
        self.model.eval()
        numbers: dict[int, int] = {}
        replies = [Reply() for _ in wanted]
        routings: dict[int, list[TokenRouting]] = {}
        try:
            for number, (ids, params) in enumerate(wanted):
                numbers[self._engine.add(ids, params, RequestOptions(routing=number in keep))] = number
            while self._engine.busy:
                for event in self._engine.step():
                    number = numbers[event.request]
                    replies[number].add(event)
                    if event.routing is not None:
                        routings.setdefault(number, []).append(event.routing)
        finally:
            for request in numbers:
                self._engine.cancel(request)
            self.model.train(training)
        return replies, routings

    def _judged(
        self,
        problems: Sequence[TaskProblem],
        prompts: Sequence[list[int]],
        size: int,
        replies: Sequence[Reply],
        routings: Mapping[int, list[TokenRouting]],
    ) -> list[RolloutGroup]:
        said = [parse_reply(reply.text, self._form) for reply in replies]
        asked = [problem for problem in problems for _ in range(size)]
        verdicts = self.family.judge_all(asked, [message.text for message in said])
        groups = []
        for at, problem in enumerate(problems):
            found, failed = [], []
            for number in range(at * size, (at + 1) * size):
                verdict, reply = verdicts[number], replies[number]
                if verdict.failed:
                    failed.append(verdict.why)
                    continue
                found.append(
                    Rollout(
                        (
                            Segment(tuple(prompts[at])),
                            Segment(tuple(reply.ids), tuple(reply.logprobs), tuple(routings.get(number, ()))),
                        ),
                        said[number].reasoning or "",
                        said[number].text,
                        reply.finish_reason != "stop",
                        verdict,
                        verdict.reward(self.reward_weights),
                    )
                )
            groups.append(RolloutGroup(problem, tuple(found), len(failed), failed[0] if failed else ""))
        return groups
