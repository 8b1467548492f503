"""Rollouts: replies to problems, sampled by the engine from the weights that are trained, with their rewards.

Token ids are the only truth: what was sampled is what is learnt from, and no text is ever tokenised again.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

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

MAX_BATCH = 256  # sequences in one pass


@dataclass(frozen=True)
class Rollout:
    """One sampled reply. `ids` and `logprobs` are of the reply alone, the token that ended it included.

    `logprobs`: under the distribution that it was sampled from. `truncated`: it did not end by itself.
    `routing`: the experts of each token, where they were asked for.
    """

    prompt_ids: tuple[int, ...]
    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    reasoning: str
    content: str
    truncated: bool
    verdict: TaskVerdict
    reward: float
    routing: tuple[TokenRouting, ...] = ()

    def row(self, advantage: float) -> Row:
        """One row to learn from: the streams of `train.policy_gradient.PolicyGradient`."""
        whole = np.asarray((*self.prompt_ids, *self.ids), dtype=np.int32)
        count = len(whole) - 1
        learnt = np.zeros(count, dtype=np.float32)
        learnt[len(self.prompt_ids) - 1 :] = 1.0
        old = np.zeros(count, dtype=np.float32)
        old[len(self.prompt_ids) - 1 :] = self.logprobs
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
        self, problems: Sequence[TaskProblem], size: int, key: tuple[int, ...], routing_of: int = 0
    ) -> list[RolloutGroup]:
        """`size` replies to each problem at temperature 1, without any filter.

        `key`: where in the run they belong; it seeds them. `routing_of`: of how many groups the
        first reply has its experts kept.
        """
        prompts = [self.prompt_ids(problem) for problem in problems]
        wanted = [
            (
                ids,
                SamplingParams(temperature=1.0, max_tokens=self.max_tokens, seed=sampling_seed(*key, at, n)),
            )
            for at, ids in enumerate(prompts)
            for n in range(size)
        ]
        keep = {at * size for at in range(routing_of)}
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
                        tuple(prompts[at]),
                        tuple(reply.ids),
                        tuple(reply.logprobs),
                        said[number].reasoning or "",
                        said[number].text,
                        reply.finish_reason != "stop",
                        verdict,
                        verdict.reward(self.reward_weights),
                        tuple(routings.get(number, ())),
                    )
                )
            groups.append(RolloutGroup(problem, tuple(found), len(failed), failed[0] if failed else ""))
        return groups
