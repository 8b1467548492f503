"""Replies of a model to many problems, kept on disk: for pools of problems and for rejection sampling.

A survey that was stopped, also by `kill -9`, goes on with the problems that are not on disk. A reply depends
on the seed, the number of its problem and its own number alone, so an interrupted survey holds the same
replies as an uninterrupted one, and a longer one begins with those of a shorter one.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from coterie.adapters.apply import base_of, find_variant, is_variant
from coterie.checkpoints.commit import RunLock
from coterie.checkpoints.fingerprint import weights_fingerprint
from coterie.checkpoints.locate import locate
from coterie.config import Settings
from coterie.config.errors import ConfigError
from coterie.config.files import file_sha256, present, read_json, write_json
from coterie.config.json_text import JsonError, parse_json_object
from coterie.reinforce.pool import ProblemPool
from coterie.reinforce.rollouts import RolloutGroup, Sampler
from coterie.reinforce.source import require_judged
from coterie.tasks.problem import EXTRA, TaskFamily, TaskProblem

_log = logging.getLogger("coterie")
SETTINGS, REPLIES = "survey.json", "replies.jsonl"
_AT_ONCE = 256  # replies that are sampled before they are written
_SECONDS = 10.0  # between lines about progress


class SurveySettings(Settings):
    """What decides the replies of a survey.

    `model`: the fingerprint of its weights. `pool`: of the problems, where they are those of a pool.
    """

    model: str
    template: str
    task: str
    task_version: int
    levels: list[int]
    seed: int
    replies: int
    temperature: float
    max_tokens: int
    instruction: bool
    dtype: str
    pool: str


@dataclass(frozen=True)
class SurveyedReply:
    """One reply, `ids` being what was sampled."""

    reasoning: str
    content: str
    right: bool
    reward: float
    truncated: bool
    ids: tuple[int, ...]


@dataclass(frozen=True)
class Surveyed:
    """A problem with its replies. `index`: what `TaskFamily.problem` takes. `failed`: of the checker."""

    problem: TaskProblem
    index: int
    replies: tuple[SurveyedReply, ...]
    failed: int = 0
    why_failed: str = ""

    @property
    def num_right(self) -> int:
        """Replies that are right."""
        return sum(reply.right for reply in self.replies)

    @property
    def share(self) -> float:
        """Of right replies; 0 where the checker judged none."""
        return self.num_right / max(1, len(self.replies))


@dataclass
class Survey:
    """`settings.replies` replies to each of `problems` (index and problem), in `folder`.

    Errors: `ConfigError` for a folder that holds another survey; `TrainingError` for one that another
    process writes to, and when the checker fails on more than a few replies.
    """

    sampler: Sampler
    settings: SurveySettings
    folder: Path
    problems: Sequence[tuple[int, TaskProblem]]

    @classmethod
    def of(
        cls,
        sampler: Sampler,
        model: str,
        folder: Path,
        *,
        problems: int,
        replies: int,
        levels: Sequence[int],
        seed: int,
        temperature: float = 1.0,
        pool: ProblemPool | None = None,
    ) -> Survey:
        """A survey of the model that `sampler` holds and `model` names.

        `problems`: how many at most, those of `pool` where there is one, else different ones of `levels`.
        Errors: `ConfigError` for the level that is held out.
        """
        family = sampler.family
        settings = SurveySettings(
            model=model_fingerprint(model),
            template=sampler.tokenizer.chat_template or "",
            task=family.name,
            task_version=family.version,
            levels=list(levels),
            seed=seed,
            replies=replies,
            temperature=temperature,
            max_tokens=sampler.max_tokens,
            instruction=sampler.instruction,
            dtype=str(sampler.model.compute_dtype).removeprefix("torch."),
            pool="" if pool is None else pool.fingerprint,
        )
        if pool is None:
            return cls(sampler, settings, folder, training_problems(family, levels, problems, seed))
        return cls(sampler, settings, folder, pool.numbered[:problems])

    def run(self) -> list[Surveyed]:
        """All problems with their replies, from disk or sampled now."""
        asked = self.problems
        with RunLock(self.folder):
            self._claim()
            found = self._read(asked)
            if len(found) < len(asked):
                if found:
                    _log.info("%s: %d of %d problems are done", self.folder, len(found), len(asked))
                found += self._sample(asked[len(found) :], len(found))
        failed = sum(one.failed for one in found)
        why = next((one.why_failed for one in found if one.failed), "")
        require_judged(failed, failed + sum(len(one.replies) for one in found), why)
        return found

    def _claim(self) -> None:
        """Write the settings, or compare them with those that the folder has."""
        path, now = self.folder / SETTINGS, self.settings.to_dict()
        if not present(path, ConfigError):
            write_json(path, now)
            return
        before = read_json(path, "remove the folder or choose another --out", ConfigError)
        for name, value in now.items():
            if before.get(name) != value:
                words = (
                    "another model"
                    if name == "model"
                    else f"{name} {before.get(name)!r:.60}, not {value!r:.60}"
                )
                raise ConfigError(
                    f"{self.folder}: holds replies sampled with {words}; remove it or choose another --out"
                )

    def _read(self, asked: Sequence[tuple[int, TaskProblem]]) -> list[Surveyed]:
        """The problems that are on disk; what a kill cut short is removed."""
        path = self.folder / REPLIES
        if not path.exists():
            return []
        whole, found = 0, []
        with path.open("rb+") as file:
            for (index, problem), line in zip(asked, file, strict=False):
                if not line.endswith(b"\n"):
                    break
                try:
                    found.append(_surveyed(index, problem, parse_json_object(line)))
                except (JsonError, KeyError, TypeError, ValueError):
                    raise ConfigError(
                        f"{path}:{len(found) + 1}: does not hold the replies to {problem.id}; remove "
                        f"{self.folder} to sample again"
                    ) from None
                whole += len(line)
            if len(found) < len(asked):
                file.truncate(whole)
        return found

    def _sample(self, asked: Sequence[tuple[int, TaskProblem]], done: int) -> Iterator[Surveyed]:
        settings, total = self.settings, done + len(asked)
        step = max(1, _AT_ONCE // settings.replies)
        begun = shown = time.monotonic()
        right = judged = 0
        for start in range(0, len(asked), step):
            piece = asked[start : start + step]
            groups = self.sampler.groups(
                [problem for _, problem in piece],
                settings.replies,
                (settings.seed,),
                temperature=settings.temperature,
                first=done + start,
            )
            found = [_of_group(index, group) for (index, _), group in zip(piece, groups, strict=True)]
            self._append(found)
            yield from found
            right += sum(one.num_right for one in found)
            judged += sum(len(one.replies) for one in found)
            now, count = time.monotonic(), start + len(piece)
            if now - shown > _SECONDS or count == len(asked):
                shown = now
                left = (now - begun) / count * (len(asked) - count)
                _log.info(
                    "sampled %d of %d problems, %.1f %% of replies right, about %.0f s left",
                    *(done + count, total, 100 * right / max(1, judged), left),
                )

    def _append(self, found: Sequence[Surveyed]) -> None:
        """Put whole lines on the disk; a kill within them leaves part of one, which `_read` removes."""
        lines = "".join(json.dumps(_kept(one)) + "\n" for one in found)
        with (self.folder / REPLIES).open("a", encoding="utf-8") as file:
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())


def training_problems(
    family: TaskFamily, levels: Sequence[int], count: int, seed: int
) -> list[tuple[int, TaskProblem]]:
    """Up to `count` training problems with their indices. Errors: `ConfigError` for the held-out level."""
    if EXTRA in levels:
        raise ConfigError(
            f"task {family.name}: level {EXTRA} is held out from training; choose levels up to {EXTRA - 1}"
        )
    return list(family.numbered(levels, count, "train", seed, fewer=True))


def _of_group(index: int, group: RolloutGroup) -> Surveyed:
    replies = (
        SurveyedReply(
            rollout.reasoning,
            rollout.content,
            rollout.verdict.right,
            rollout.reward,
            rollout.truncated,
            rollout.ids,
        )
        for rollout in group.rollouts
    )
    return Surveyed(group.problem, index, tuple(replies), group.num_failed, group.why_failed)


def _kept(one: Surveyed) -> dict[str, Any]:
    about = {"id": one.problem.id, "level": one.problem.level, "index": one.index}
    failed = {"failed": one.failed, "why_failed": one.why_failed} if one.failed else {}
    return {**about, "prompt": one.problem.prompt, "replies": [asdict(r) for r in one.replies], **failed}


def _surveyed(index: int, problem: TaskProblem, kept: dict[str, Any]) -> Surveyed:
    """What `_kept` wrote. Errors: `ValueError` for another problem, `KeyError` or `TypeError`."""
    if kept["id"] != problem.id:
        raise ValueError(kept["id"])
    replies = tuple(SurveyedReply(**{**reply, "ids": tuple(reply["ids"])}) for reply in kept["replies"])
    return Surveyed(problem, index, replies, int(kept.get("failed", 0)), str(kept.get("why_failed", "")))


def model_fingerprint(model: str | Path) -> str:
    """Of the weights of a model; of an adapter or patch with those of its base. Errors: `CheckpointError`."""
    if not is_variant(model):
        return weights_fingerprint(locate(model))
    own = [file_sha256(path) for path in sorted(find_variant(model).glob("*.safetensors"))]
    parts = [weights_fingerprint(locate(base_of(model))), *own]
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()
