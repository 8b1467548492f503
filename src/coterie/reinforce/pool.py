"""A pool of problems of medium difficulty for one model: `coterie pool` writes it and training reads it.

The first line is the header, each further one a problem by level and index, from which the task makes it
again. Groups of replies to problems that are never or nearly always solved teach nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from coterie.config import Settings
from coterie.config.errors import ConfigError
from coterie.config.files import write_text
from coterie.config.json_text import JsonError, parse_json_object
from coterie.primer.base import Rng
from coterie.tasks.problem import EXTRA, TaskFamily, TaskProblem

FORMAT = 1
_AGAIN = "make it again with coterie pool"


class PoolLevel(Settings):
    """One level: how many problems were tried, the share of right replies, and how many are in the pool."""

    level: int
    problems: int
    share: float
    pooled: int


class PoolHeader(Settings):
    """How a pool was measured. `share` of a pooled problem is above `low` and below `high`.

    `fingerprint`: of the weights of `model`. `pass_at`: k -> share of the tried problems with at least one
    right reply of k (unbiased). `shares`: how many of the tried problems have this number of right replies.
    `tokens`: of all replies.
    """

    format: int = FORMAT
    task: str
    task_version: int
    split: str = "train"
    model: str
    fingerprint: str
    seed: int
    replies: int
    temperature: float
    max_tokens: int
    instruction: bool
    low: float
    high: float
    tried: int
    pooled: int
    tokens: int
    levels: list[PoolLevel]
    pass_at: dict[int, float]
    shares: list[int]


class PooledProblem(Settings):
    """A problem of a pool, `right` of the header's `replies` being right."""

    id: str
    level: int
    index: int
    right: int
    share: float


@dataclass(frozen=True)
class ProblemPool:
    """A pool with its problems made again, in the order of the file, each with its index."""

    header: PoolHeader
    numbered: tuple[tuple[int, TaskProblem], ...]

    @property
    def problems(self) -> list[TaskProblem]:
        """The problems alone."""
        return [problem for _, problem in self.numbered]

    @property
    def fingerprint(self) -> str:
        """Of which problems it holds."""
        return hashlib.sha256(" ".join(problem.id for problem in self.problems).encode()).hexdigest()

    @cached_property
    def by_level(self) -> dict[int, tuple[TaskProblem, ...]]:
        """The problems of each level."""
        levels = sorted({problem.level for problem in self.problems})
        return {
            level: tuple(problem for problem in self.problems if problem.level == level) for level in levels
        }

    def problem(self, level: int, index: int, seed: int) -> TaskProblem:
        """The problems of a level in an order that depends on the seed, another one each time round."""
        here = self.by_level[level]
        turn, place = divmod(index, len(here))
        return Rng("pool", seed, level, turn).shuffled(here)[place]


def write_pool(path: str | Path, header: PoolHeader, problems: Sequence[PooledProblem]) -> None:
    """Write the file, whole or not at all."""
    lines = (json.dumps(one.to_dict()) + "\n" for one in (header, *problems))
    write_text(path, "".join(lines))


def read_pool(path: str | Path, family: TaskFamily) -> ProblemPool:
    """The pool in a file, for training on `family`.

    Errors: `ConfigError`, one line, for another file, another task or version of it, and problems that are
    held out from training.
    """
    lines = _lines(path)
    header = PoolHeader.from_dict(lines[0], str(path))
    if header.format != FORMAT:
        raise ConfigError(f"{path}: is of format {header.format}, this version reads {FORMAT}; {_AGAIN}")
    if header.task != family.name:
        raise ConfigError(f"{path}: is a pool of task {header.task}, not of {family.name}")
    if header.task_version != family.version:
        raise ConfigError(
            f"{path}: was made with version {header.task_version} of task {header.task}, which is now at "
            f"{family.version}; {_AGAIN}"
        )
    problems = []
    for number, line in enumerate(lines[1:], 2):
        one = PooledProblem.from_dict(line, f"{path}:{number}")
        if header.split != "train" or one.level == EXTRA:
            raise ConfigError(f"{path}: holds problems that are held out from training; {_AGAIN}")
        problem = family.problem(one.level, one.index, "train", header.seed)
        if problem.id != one.id:
            raise ConfigError(f"{path}:{number}: the task now has another problem in its place; {_AGAIN}")
        problems.append((one.index, problem))
    if not problems:
        raise ConfigError(f"{path}: holds no problems: {words_of_none(header)}")
    return ProblemPool(header, tuple(problems))


def words_of_none(header: PoolHeader) -> str:
    """Why a pool is empty, and what to do."""
    solved = header.pass_at[1]
    advice = "harder levels" if solved > 0.5 else "worked replies to tune on first, or easier levels"
    return f"{solved:.0%} of replies are right, on no problem of medium difficulty; choose {advice}"


def _lines(path: str | Path) -> Sequence[Mapping[str, Any]]:
    try:
        text = Path(path).read_bytes().splitlines()
        lines = [parse_json_object(line) for line in text]
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); give a file of coterie pool") from None
    except JsonError as error:
        raise ConfigError(f"{path}: is not a file of coterie pool: it {error}") from None
    if not lines or "pass_at" not in lines[0]:
        raise ConfigError(f"{path}: is not a file of coterie pool; its first line is no header")
    return lines
