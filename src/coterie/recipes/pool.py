"""A pool of problems of medium difficulty: each is answered several times, and those in the middle stay."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from coterie.config.errors import TrainingError
from coterie.config.pool import PoolConfig
from coterie.reinforce.pool import (
    PooledProblem,
    PoolHeader,
    PoolLevel,
    words_of_none,
    write_pool,
)
from coterie.reinforce.sampling import load_sampler
from coterie.reinforce.survey import Survey, Surveyed
from coterie.results.accuracy import pass_at_k
from coterie.tasks import load_task
from coterie.tasks.check import require_passed
from coterie.tasks.levels import read_levels
from coterie.tasks.problem import TaskFamily

_log = logging.getLogger("coterie")


def make_pool(config: PoolConfig) -> PoolHeader:
    """Make the pool that `config` describes; what was sampled before is not sampled again.

    Writes `config.out`, and every reply into the folder of the same name with `.replies`.
    Errors: `CoterieError` subclasses, one line each; `TrainingError` where no problem stays.
    """
    family = load_task(config.task)
    levels = read_levels(config.levels, family.levels)
    require_passed(family)
    sampler = load_sampler(config.model, family, config)
    survey = Survey.of(
        sampler,
        config.model,
        Path(config.out).with_suffix(".replies"),
        problems=config.problems,
        replies=config.replies,
        levels=levels,
        seed=config.seed,
    )
    found = survey.run()
    judged = [one for one in found if len(one.replies) == config.replies]
    if len(judged) < len(found):
        _log.warning(
            "the checker failed on replies to %d problems, which are left out", len(found) - len(judged)
        )
    if len(found) < config.problems:
        _log.info("task %s has %d problems at these levels", family.name, len(found))
    header, pooled = pool_of(config, family, judged, survey.settings.model)
    write_pool(config.out, header, pooled)
    if not pooled:
        raise TrainingError(f"{config.out}: {words_of_none(header)}")
    return header


def pool_of(
    config: PoolConfig, family: TaskFamily, found: Sequence[Surveyed], fingerprint: str
) -> tuple[PoolHeader, list[PooledProblem]]:
    """The header and the problems of a pool."""
    pooled = [
        PooledProblem(
            id=one.problem.id, level=one.problem.level, index=one.index, right=one.num_right, share=one.share
        )
        for one in found
        if config.low < one.share < config.high
    ]
    counts = [one.num_right for one in found]
    how_many = Counter(counts)
    header = PoolHeader(
        task=family.name,
        task_version=family.version,
        model=config.model,
        fingerprint=fingerprint,
        seed=config.seed,
        replies=config.replies,
        temperature=1.0,
        max_tokens=config.max_tokens,
        instruction=config.instruction,
        low=config.low,
        high=config.high,
        tried=len(found),
        pooled=len(pooled),
        tokens=sum(len(reply.ids) for one in found for reply in one.replies),
        levels=list(_levels(found, pooled)),
        pass_at={k: pass_at_k(counts, config.replies, k) for k in _powers(config.replies)},
        shares=[how_many[right] for right in range(config.replies + 1)],
    )
    return header, pooled


def _levels(found: Sequence[Surveyed], pooled: Sequence[PooledProblem]) -> Iterator[PoolLevel]:
    for level in sorted({one.problem.level for one in found}):
        here = [one.share for one in found if one.problem.level == level]
        kept = sum(one.level == level for one in pooled)
        yield PoolLevel(level=level, problems=len(here), share=sum(here) / len(here), pooled=kept)


def _powers(most: int) -> Iterator[int]:
    """1, 2, 4, ... and `most`."""
    k = 1
    while k < most:
        yield k
        k *= 2
    yield most
