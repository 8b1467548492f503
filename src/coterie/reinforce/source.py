"""Where a reinforcement run gets its rows: at each step it samples, and has the replies judged.

It is the loop's reader of data and one of its callbacks, so a run is the same loop as every other, and its
state (which levels are worth asking) is in the checkpoints. Replies depend on the seed, the step and the
weights alone; a resumed run samples the same ones.
"""

from __future__ import annotations

import gzip
import json
import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coterie.config.errors import TrainingError
from coterie.config.reinforce import ReinforceConfig
from coterie.data.rows import Row
from coterie.nn.transformer import Transformer
from coterie.primer.base import Rng
from coterie.reinforce.compute import step_flops
from coterie.reinforce.mismatch import Mismatch, measure_mismatch
from coterie.reinforce.pool import ProblemPool
from coterie.reinforce.rollouts import Rollout, RolloutGroup, Sampler
from coterie.tasks.problem import TaskProblem
from coterie.train.callbacks import Callback
from coterie.train.policy_gradient import advantages
from coterie.train.preference import with_reference
from coterie.train.running import RunningTraining

_log = logging.getLogger("coterie")
_MEASURED = 4  # replies of each step on which sampler and trainer are compared
_MOST_FAILED = 0.02  # of replies whose checker failed
_FLOOR = 0.1  # of the weight of a level that teaches little
_MEMORY = 0.8  # of the running share of right replies of a level


@dataclass
class RolloutSource(Callback):
    """Samples `config.prompts` groups for each step, and replaces those that teach nothing.

    `reference`: the model of the start, where a KL to it is asked for. `folder`: where every reply is kept,
    one compressed JSONL file a step. `pool`: the problems to choose from (default: all of the levels).
    """

    config: ReinforceConfig
    sampler: Sampler
    levels: Sequence[int]
    folder: Path
    reference: Transformer | None = None
    pool: ProblemPool | None = None
    share_right: dict[int, float] = field(default_factory=dict)
    tokens_sampled: int = 0

    def __post_init__(self) -> None:
        self._trainer: RunningTraining | None = None

    def on_start(self, trainer: RunningTraining) -> None:
        self._trainer = trainer

    def state_dict(self) -> dict[str, Any]:
        shares = {str(level): share for level, share in self.share_right.items()}
        return {"share_right": shares, "tokens_sampled": self.tokens_sampled}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.tokens_sampled = int(state["tokens_sampled"])
        self.share_right = {int(level): float(share) for level, share in state["share_right"].items()}

    def batches(self, start: int) -> Iterator[list[Row]]:
        """Micro-batches without end. `start`, the number of rows so far, is not used."""
        while True:
            assert self._trainer is not None, "the source is one of the trainer's callbacks"
            yield from self._step(self._trainer)

    def _step(self, trainer: RunningTraining) -> Iterator[list[Row]]:
        begun = time.perf_counter()
        config, number = self.config, trainer.step_count
        groups, asked = self._informative(number)
        rewards = [group.rewards for group in groups]
        found = advantages(rewards, config.policy.advantage)
        first = [group.rollouts[0] for group in groups[:_MEASURED]]
        mismatch = measure_mismatch(self.sampler.model, first)
        self._note_levels(asked)
        self.tokens_sampled += sum(len(rollout.ids) for group in asked for rollout in group.rollouts)
        self._keep(number + 1, asked, {id(g): its for g, its in zip(groups, found, strict=True)})
        record = _record(number + 1, groups, asked, mismatch, time.perf_counter() - begun)
        sampling, training = step_flops(
            self.sampler.model.config, _lengths(asked), _lengths(groups), self.reference is not None
        )
        trainer.publish(record | {"sampling_flops": sampling, "training_flops": training})
        pairs = [
            (rollout, advantage)
            for group, its in zip(groups, found, strict=True)
            for rollout, advantage in zip(group.rollouts, its, strict=True)
        ]
        rows = [rollout.row(advantage) for rollout, advantage in pairs]
        if self.reference is not None:
            rows = with_reference(self.reference, rows)
        pieces = config.updates * config.accumulate
        for piece in range(pieces):
            yield rows[piece * len(rows) // pieces : (piece + 1) * len(rows) // pieces]

    def _informative(self, number: int) -> tuple[list[RolloutGroup], list[RolloutGroup]]:
        """The groups to learn from, and all that were sampled. Errors: `TrainingError` for too few."""
        config = self.config
        kept: list[RolloutGroup] = []
        asked: list[RolloutGroup] = []
        for turn in range(config.refills + 1):
            problems = self._problems(number, turn, config.prompts - len(kept))
            sampled = self.sampler.groups(problems, config.group, (config.seed, number, turn), _MEASURED)
            asked += sampled
            kept += [group for group in sampled if group.informative]
            if len(kept) >= config.prompts:
                break
        failed = sum(group.num_failed for group in asked)
        why = next((group.why_failed for group in asked if group.num_failed), "")
        require_judged(failed, failed + sum(len(group.rollouts) for group in asked), why)
        if len(kept) < config.least_groups:
            right = sum(group.num_right for group in asked) / max(1, sum(len(g.rollouts) for g in asked))
            raise TrainingError(
                f"step {number + 1}: only {len(kept)} of {len(asked)} groups have replies of different "
                f"rewards ({right:.0%} of replies are right), so there is nothing to learn; choose "
                f"{'harder' if right > 0.5 else 'easier'} levels"
            )
        return kept, asked

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
                before = self.share_right.get(level, share)
                self.share_right[level] = _MEMORY * before + (1 - _MEMORY) * share

    def _keep(self, step: int, groups: Sequence[RolloutGroup], found: Mapping[int, Sequence[float]]) -> None:
        """Write every reply of a step; a repeated step writes the same file again.

        `found`: the advantages of each group that is learnt from, by its `id`.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"step-{step:06d}.jsonl.gz"
        temporary = path.with_suffix(".tmp")
        with gzip.open(temporary, "wt", encoding="utf-8") as file:
            for group in groups:
                its = found.get(id(group), [None] * len(group.rollouts))
                for rollout, advantage in zip(group.rollouts, its, strict=True):
                    file.write(json.dumps(_kept(group, rollout, advantage), ensure_ascii=True) + "\n")
        temporary.replace(path)


def _lengths(groups: Sequence[RolloutGroup]) -> Iterator[int]:
    """Of each row: the last token is read by nobody."""
    return (len(rollout.whole) - 1 for group in groups for rollout in group.rollouts)


def _kept(group: RolloutGroup, rollout: Rollout, advantage: float | None) -> dict[str, Any]:
    problem = group.problem
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
        "logprobs": [round(value, 5) for value in rollout.logprobs],
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
