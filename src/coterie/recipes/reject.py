"""Rejection sampling: a model, or its base, is tuned on replies that are right. Run again, it resumes."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coterie.config.errors import ConfigError, StoppedError, TrainingError
from coterie.config.files import file_sha256, write_json, write_text
from coterie.config.reject import RejectConfig
from coterie.machine.facts import versions
from coterie.recipes.tune import run_tune
from coterie.reinforce.accepted import accept, as_sampled, row_of
from coterie.reinforce.pool import ProblemPool, read_pool
from coterie.reinforce.sampling import Answers, held_out_answers, load_sampler
from coterie.reinforce.survey import Survey
from coterie.results.accuracy import accuracy, accuracy_change
from coterie.results.reject import AcceptedReplies, RejectRecord
from coterie.tasks import load_task
from coterie.tasks.check import require_passed
from coterie.tasks.levels import read_levels
from coterie.tasks.problem import TaskFamily
from coterie.train.callbacks import STOPPED

_log = logging.getLogger("coterie")
REPORT, RECEIPT, SAMPLES = "reject.json", "rows.json", "sampled"


@dataclass(frozen=True)
class RejectResult:
    """What a run made. `path`: the adapter, patch or model; `record`: what `reject.json` holds."""

    path: Path
    kind: str
    record: RejectRecord


@dataclass(frozen=True)
class _Sampled:
    """What the model that is sampled gave: its account, its fingerprint, and its answers before."""

    accepted: AcceptedReplies
    fingerprint: str
    before: Answers


def run_reject(config: RejectConfig, resume_hint: str = "the same command") -> RejectResult:
    """Run the rejection sampling that `config` describes, or resume it.

    Writes `config.out`: every reply in `sampled`, the rows in `rows.jsonl` with their receipt `rows.json`,
    the tuning run in `tune` with the result, and `reject.json`.
    Errors: `CoterieError` subclasses, one line each; `StoppedError` for a run that a signal stopped.
    """
    family = load_task(config.task)
    pool = None if config.pool is None else read_pool(config.pool, family)
    levels = read_levels(config.levels, family.levels) if pool is None else list(pool.by_level)
    require_passed(family)
    sampled = _sample(config, family, levels, pool)
    result = run_tune(config.tuning(), resume_hint, stage="reject")
    if result.path is None:
        raise StoppedError(f"stopped in tuning; to go on: {resume_hint}", STOPPED[result.reason])
    count = (levels, config.eval_problems, config.seed)
    after = held_out_answers(load_sampler(str(result.path), family, config), *count)
    base = None
    if config.base is not None:
        base = accuracy(held_out_answers(load_sampler(config.base, family, config), *count).right)
    record = RejectRecord(
        config=config.to_dict(),
        task=family.name,
        task_version=family.version,
        fingerprint=sampled.fingerprint,
        accepted=sampled.accepted,
        rows_sha256=file_sha256(config.rows),
        change=accuracy_change(sampled.before.right, after.right),
        base=base,
        mean_tokens=(sampled.before.mean_tokens, after.mean_tokens),
        steps=result.steps,
        tokens_sampled=sampled.accepted.tokens,
        tokens_trained=result.tokens,
        seconds=result.seconds,
        path=str(result.path),
        versions=versions(),
    )
    write_json(Path(config.out, REPORT), record.to_dict())
    return RejectResult(result.path, result.kind, record)


def _sample(
    config: RejectConfig, family: TaskFamily, levels: list[int], pool: ProblemPool | None
) -> _Sampled:
    """Write the rows and their receipt. Errors: `TrainingError` where no reply can be learnt."""
    sampler = load_sampler(config.model, family, config)
    survey = Survey.of(
        sampler,
        config.model,
        Path(config.out, SAMPLES),
        problems=config.problems,
        replies=config.replies,
        levels=levels,
        seed=config.seed,
        temperature=config.temperature,
        pool=pool,
    )
    if any(family.tools(problem) for _, problem in survey.problems[:1]):
        raise ConfigError(
            f"task {family.name}: rejection sampling does not keep conversations with tools yet"
        )
    found = survey.run()
    kept, accepted = accept(found, config.per_problem, config.level_spread or None, as_sampled(sampler))
    _log.info("%s", accepted.words())
    if not kept:
        advice = "tune on worked replies first (coterie task rows), or choose easier levels"
        if accepted.rendered_otherwise:
            advice = "the chat template does not show replies as they were sampled; choose another template"
        elif accepted.truncated:
            advice = f"right replies were cut off at {config.max_tokens} tokens; raise --max-tokens"
        raise TrainingError(f"{config.out}: there is nothing to learn: {accepted.words()}; {advice}")
    text = "".join(json.dumps(row_of(one, config.instruction), ensure_ascii=False) + "\n" for one in kept)
    if not config.rows.exists() or config.rows.read_text(encoding="utf-8") != text:
        write_text(config.rows, text)
    receipt = {
        "model": config.model,
        "survey": survey.settings.to_dict(),
        "accepted": accepted.to_dict(),
        "rows_sha256": file_sha256(config.rows),
    }
    write_json(Path(config.out, RECEIPT), receipt)
    before = held_out_answers(sampler, levels, config.eval_problems, config.seed)
    return _Sampled(accepted, survey.settings.model, before)


def reject(model: str, task: str, **settings: Any) -> RejectResult:
    """Do what `coterie train reject` does, from Python. `settings`: further fields of `RejectConfig`.

    Errors: `CoterieError` subclasses, one line each.
    """
    return run_reject(RejectConfig.from_dict({"model": model, "task": task} | settings, "reject"))
