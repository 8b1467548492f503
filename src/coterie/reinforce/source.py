"""Where a reinforcement run gets its rows: at each step it samples, and has the replies judged.

It is the loop's reader of data and one of its callbacks, so a run is the same loop as every other, and its
state (which levels are worth asking, which replies still have updates to come) is in the checkpoints. Replies
depend on the seed, the step and the weights alone; a resumed run samples the same ones.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any, NoReturn

from coterie.config.errors import TrainingError
from coterie.config.reinforce import ReinforceConfig
from coterie.data.rows import Row
from coterie.nn.branches import can_branch
from coterie.nn.transformer import Transformer
from coterie.primer.base import Rng
from coterie.reinforce.compute import step_flops
from coterie.reinforce.kept import keep_step
from coterie.reinforce.mismatch import Mismatch, measure_mismatch
from coterie.reinforce.pending import pack_rows, unpack_rows
from coterie.reinforce.pool import ProblemPool
from coterie.reinforce.replay import with_sampler_routing, with_trainer_routing
from coterie.reinforce.rollouts import Rollout, RolloutGroup, Sampler
from coterie.tasks.problem import TaskProblem
from coterie.train.batch import shared_tokens
from coterie.train.callbacks import Callback
from coterie.train.policy_gradient import PolicyGradient, advantages
from coterie.train.preference import with_reference
from coterie.train.running import NoMoreSteps, RunningTraining

_log = logging.getLogger("coterie")
_MEASURED = 4  # replies of each step on which sampler and trainer are compared
_MOST_FAILED = 0.02  # of replies whose checker failed
_FLOOR = 0.1  # of the weight of a level that teaches little
_MEMORY = 0.8  # of the running share of right replies of a level
_LEARNT = 0.9  # share of right replies above which a lack of signal is the goal, and no fault


@dataclass
class RolloutSource(Callback):
    """Samples `config.prompts` groups for each step, and replaces those that teach nothing.

    `reference`: the model of the start, where a KL to it is asked for. `folder`: where every reply is kept,
    one compressed JSONL file a step. `objective`: the run's, whose effective share goes into the records.
    `pool`: the problems to choose from (default: all of the levels).

    `share_right`, `mean_reward`: of each level, running. `strength`: the factor on the learning rate, for
    the number of groups with a signal that the last batch had.
    """

    config: ReinforceConfig
    sampler: Sampler
    levels: Sequence[int]
    folder: Path
    reference: Transformer | None = None
    objective: PolicyGradient | None = None
    pool: ProblemPool | None = None
    strength: float = 1.0
    share_right: dict[int, float] = field(default_factory=dict)
    mean_reward: dict[int, float] = field(default_factory=dict)
    tokens_sampled: int = 0

    def __post_init__(self) -> None:
        self._trainer: RunningTraining | None = None
        self._pending: list[list[Row]] = []

    def on_start(self, trainer: RunningTraining) -> None:
        self._trainer = trainer

    def state_dict(self) -> dict[str, Any]:
        return {
            "share_right": {str(level): share for level, share in self.share_right.items()},
            "mean_reward": {str(level): reward for level, reward in self.mean_reward.items()},
            "tokens_sampled": self.tokens_sampled,
            "strength": self.strength,
            "pending": pack_rows(self._pending),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.tokens_sampled = int(state["tokens_sampled"])
        self.strength = float(state["strength"])
        self._pending = unpack_rows(state["pending"])
        self.share_right = {int(level): float(share) for level, share in state["share_right"].items()}
        self.mean_reward = {int(level): float(reward) for level, reward in state["mean_reward"].items()}

    def batches(self, start: int) -> Iterator[list[Row]]:
        """Micro-batches until there is nothing left to learn. `start`, the rows so far, is not used.

        Errors: `TrainingError` for too few groups with a signal.
        """
        while True:
            assert self._trainer is not None, "the source is one of the trainer's callbacks"
            self._pending = self._pending or self._batch(self._trainer)
            yield self._pending.pop(0)

    def _batch(self, trainer: RunningTraining) -> list[list[Row]]:
        """The micro-batches of the next `config.updates` steps."""
        begun = time.perf_counter()
        config, number = self.config, trainer.step_count
        groups, asked = self._informative(number)
        self.strength = math.sqrt(min(1.0, len(groups) / config.prompts))
        rewards = [group.rewards for group in groups]
        found = advantages(rewards, config.policy.advantage)
        pairs = [
            (rollout, advantage)
            for group, its in zip(groups, found, strict=True)
            for rollout, advantage in zip(group.rollouts, its, strict=True)
        ]
        rows = self._rows(pairs)
        ends = accumulate(len(group.rollouts) for group in groups[:_MEASURED])
        firsts = [end - len(group.rollouts) for end, group in zip(ends, groups, strict=False)]
        mismatch = measure_mismatch(self.sampler.model, [(pairs[at][0], rows[at]) for at in firsts])
        self._note_levels(asked)
        self.tokens_sampled += sum(len(rollout.ids) for group in asked for rollout in group.rollouts)
        self._keep(number + 1, asked, {id(g): its for g, its in zip(groups, found, strict=True)})
        record = _record(number + 1, groups, asked, mismatch, time.perf_counter() - begun)
        reads = (self.reference is not None) + (config.policy.replay == "trainer")
        pieces = self._pieces(rows)
        record["sampling_flops"], record["training_flops"] = step_flops(
            self.sampler.model.config,
            _lengths(asked),
            _lengths(groups),
            reads,
            [rollout.cached for group in asked for rollout in group.rollouts],
            sum(shared_tokens(piece) for piece in pieces) if self.shares_prompts else 0,
        )
        record["level_reward"] = math.fsum(self.mean_reward.values()) / len(self.mean_reward)
        if self.objective is not None:
            record["effective_share"] = self.objective.effective_share
        trainer.publish(record)
        return pieces

    @property
    def shares_prompts(self) -> bool:
        """Whether training computes the prompt of a group once.

        Where the balance of experts is trained, prompts count in it as often as they are read.
        """
        config = self.config
        return can_branch(self.sampler.model.config) and (
            config.balance == "none" or not config.balance_prompts
        )

    def _pieces(self, rows: Sequence[Row]) -> list[list[Row]]:
        """The micro-batches of all updates."""
        count = self.config.updates * self.config.accumulate
        return [list(rows[at * len(rows) // count : (at + 1) * len(rows) // count]) for at in range(count)]

    def _rows(self, pairs: Sequence[tuple[Rollout, float]]) -> list[Row]:
        """The rows of replies with their advantages, as they are trained on."""
        rows = [rollout.row(advantage) for rollout, advantage in pairs]
        if self.reference is not None:
            rows = with_reference(self.reference, rows)
        if self.config.policy.replay == "sampler":
            return with_sampler_routing(self.sampler.model, rows, [rollout for rollout, _ in pairs])
        if self.config.policy.replay == "trainer":
            return with_trainer_routing(self.sampler.model, rows)
        return rows

    def _informative(self, number: int) -> tuple[list[RolloutGroup], list[RolloutGroup]]:
        """The groups to learn from, and all that were sampled.

        Errors: `TrainingError` for too few; `NoMoreSteps` where that is because nearly all replies are right.
        """
        config = self.config
        kept: list[RolloutGroup] = []
        asked: list[RolloutGroup] = []
        for turn in range(config.refills + 1):
            problems = self._problems(number, turn, config.prompts - len(kept))
            key, replay = (config.seed, number, turn), config.policy.replay == "sampler"
            sampled = self.sampler.groups(problems, config.group, key, _MEASURED, routing=replay)
            asked += sampled
            kept += [group for group in sampled if group.informative]
            if len(kept) >= config.prompts:
                break
        failed = sum(group.num_failed for group in asked)
        why = next((group.why_failed for group in asked if group.num_failed), "")
        require_judged(failed, failed + sum(len(group.rollouts) for group in asked), why)
        if len(kept) < config.least_groups:
            self._too_few(number, len(kept), asked)
        return kept, asked

    def _too_few(self, number: int, kept: int, asked: Sequence[RolloutGroup]) -> NoReturn:
        right = sum(group.num_right for group in asked) / max(1, sum(len(g.rollouts) for g in asked))
        found = (
            f"step {number + 1}: only {kept} of {len(asked)} groups have replies of different "
            f"rewards ({right:.0%} of replies are right)"
        )
        if number > 0 and right > _LEARNT:
            _log.info("%s: these levels are learnt", found)
            raise NoMoreSteps("learnt")
        last = self._trainer.last_checkpoint if self._trainer is not None else None
        saved = f"; the newest checkpoint is {last}" if last else ""
        other = "harder" if right > 0.5 else "easier"
        raise TrainingError(f"{found}, so there is nothing to learn; choose {other} levels{saved}")

    def _problems(self, number: int, turn: int, count: int) -> list[TaskProblem]:
        """`count` problems of the training split; levels of medium success come more often."""
        rng = Rng("reinforce levels", self.config.seed, number, turn)
        weights = [self._weight(level) for level in self.levels]
        problems = []
        for at in range(count):
            level = self._drawn(rng, weights)
            index = (number * (self.config.refills + 1) + turn) * self.config.prompts + at
            problems.append(self.problem(level, index, self.config.seed))
        return problems

    def problem(self, level: int, index: int, seed: int) -> TaskProblem:
        """A training problem, of the pool where there is one."""
        if self.pool is not None:
            return self.pool.problem(level, index, seed)
        return self.sampler.family.problem(level, index, "train", seed)

    def _weight(self, level: int) -> float:
        share = self.share_right.get(level, 0.5)
        return max(_FLOOR, 4 * share * (1 - share))

    def _drawn(self, rng: Rng, weights: Sequence[float]) -> int:
        place = rng.between(0, 2**30 - 1) / 2**30 * math.fsum(weights)
        for level, weight in zip(self.levels, weights, strict=True):
            place -= weight
            if place < 0:
                return level
        return self.levels[-1]

    def _note_levels(self, groups: Sequence[RolloutGroup]) -> None:
        for level in self.levels:
            here = [group for group in groups if group.problem.level == level and group.rollouts]
            if here:
                share = sum(group.num_right / len(group.rollouts) for group in here) / len(here)
                reward = sum(sum(group.rewards) / len(group.rewards) for group in here) / len(here)
                for running, value in ((self.share_right, share), (self.mean_reward, reward)):
                    running[level] = _MEMORY * running.get(level, value) + (1 - _MEMORY) * value

    def _keep(self, step: int, groups: Sequence[RolloutGroup], found: Mapping[int, Sequence[float]]) -> None:
        """Write every reply of a step.

        `found`: the advantages of each group that is learnt from, by its `id`.
        """
        replies = []
        for group in groups:
            its = found.get(id(group), [None] * len(group.rollouts))
            for rollout, advantage in zip(group.rollouts, its, strict=True):
                replies.append(_kept(group, rollout, advantage))
        keep_step(self.folder, step, replies)


def _lengths(groups: Sequence[RolloutGroup]) -> Iterator[int]:
    """Of each row: the last token is read by nobody."""
    return (len(rollout.whole) - 1 for group in groups for rollout in group.rollouts)


def _kept(group: RolloutGroup, rollout: Rollout, advantage: float | None) -> dict[str, Any]:
    problem = group.problem
    messages = rollout.messages
    before = messages if not messages or messages[-1].tool_calls else messages[:-1]
    several = {
        "turns": [message.to_dict() for message in before],
        "segments": [[segment.sampled, segment.ids] for segment in rollout.segments[1:]],
    }
    return {
        "problem": problem.id,
        "level": problem.level,
        "prompt": problem.prompt,
        "answer": problem.answer,
        "reasoning": rollout.reasoning,
        "content": rollout.content,
        "reward": rollout.reward,
        "parts": dict(rollout.verdict.parts),
        "why": rollout.verdict.why,
        "truncated": rollout.truncated,
        "right": rollout.verdict.right,
        "learnt": advantage is not None,
        "advantage": advantage,
        "ids": rollout.ids,
        "tokens": len(rollout.whole),
        "logprobs": [round(value, 5) for value in rollout.logprobs],
        **(several if rollout.num_replies > 1 else {}),
    }


def require_judged(failed: int, total: int, why: str) -> None:
    """Errors: `TrainingError` when the checker failed on more than a few replies: those are no rewards."""
    if failed > _MOST_FAILED * total:
        raise TrainingError(f"the checker failed on {failed} of {total} replies: {why}")


def _record(
    step: int,
    learnt: Sequence[RolloutGroup],
    asked: Sequence[RolloutGroup],
    mismatch: Mismatch,
    seconds: float,
) -> dict[str, Any]:
    """What `metrics.jsonl` holds of one step's replies."""
    rollouts = [rollout for group in asked for rollout in group.rollouts]
    tokens = sum(len(rollout.ids) for rollout in rollouts)
    record: dict[str, Any] = {
        "kind": "rollout",
        "step": step,
        "reward": sum(rollout.reward for rollout in rollouts) / len(rollouts),
        "right": sum(rollout.verdict.right for rollout in rollouts) / len(rollouts),
        "any_right": sum(group.num_right > 0 for group in asked) / len(asked),
        "groups": len(asked),
        "informative": sum(group.informative for group in asked) / len(asked),
        "learnt_groups": len(learnt),
        "tokens": tokens,
        "tokens_per_reply": tokens / len(rollouts),
        "truncated": sum(rollout.truncated for rollout in rollouts) / len(rollouts),
        "entropy": -math.fsum(math.fsum(rollout.logprobs) for rollout in rollouts) / tokens,
        "mismatch": mismatch.largest,
        "seconds": seconds,
        "failed": sum(group.num_failed for group in asked),
    }
    if mismatch.flips is not None:
        record["routing_flips"] = mismatch.flips
    return record
