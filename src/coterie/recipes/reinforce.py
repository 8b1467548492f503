"""Reinforcement: a model learns from rewards that a program gives. Run again, it resumes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coterie.adapters.tuned import load_result, prove, save_result
from coterie.config.files import write_json
from coterie.config.reinforce import ReinforceConfig
from coterie.proof.records import probe
from coterie.recipes.reinforce_parts import ReinforceParts
from coterie.recipes.reinforce_report import PAGE, RECORD, START, draw_run, is_reinforce_run, read_start
from coterie.recipes.run import check_same, execute, open_run
from coterie.recipes.trained_stages import trained_method
from coterie.reinforce.indexed import index_rollouts
from coterie.reinforce.pool import read_pool
from coterie.results.reinforce import ReinforceRecord, ReinforceStart
from coterie.tasks import load_task
from coterie.tasks.check import require_passed
from coterie.tasks.levels import read_levels
from coterie.train.callbacks import STOPPED


@dataclass(frozen=True)
class ReinforceResult:
    """How a run ended. `path`: the adapter or model; `record`: what it did; `page`: its report.

    A stopped run has none of the three yet.
    """

    path: Path | None
    kind: str
    reason: str
    steps: int
    record: ReinforceRecord | None = None
    page: Path | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "path": None if self.path is None else str(self.path),
            "kind": self.kind,
            "reason": self.reason,
            "steps": self.steps,
            "page": None if self.page is None else str(self.page),
            "record": None if self.record is None else self.record.to_dict(),
        }


def run_reinforce(config: ReinforceConfig, resume_hint: str = "the same command") -> ReinforceResult:
    """Run the reinforcement that `config` describes, or resume it.

    Writes `config.out`: `config.yaml`, `metrics.jsonl`, `checkpoints`, every reply in `rollouts`,
    `start.json`, `reinforce.json`, `report.html`, and the result as `adapter` or `model`.
    Errors: `CoterieError` subclasses, one line each: also for a task whose check fails, and for a model that
    gets no signal from it (`gate`).
    """
    family = load_task(config.task)
    pool = None if config.pool is None else read_pool(config.pool, family)
    levels = read_levels(config.levels, family.levels) if pool is None else list(pool.by_level)
    require_passed(family)
    with open_run(config) as processes:
        parts = ReinforceParts.build(config, family, levels, processes)
        parts.source.pool = pool
        check_same(config, parts.stated, parts.inputs)
        first = probe(parts.tuned.model, parts.tuned.tokenizer)
        start = _start(parts)
        trainer = parts.trainer
        reason = execute(config, parts.shell(), resume_hint)
        if reason in STOPPED:
            return ReinforceResult(None, parts.tuned.kind, reason, trainer.step_count)
        warnings = parts.settle(reason)
        record = parts.record(start, parts.measured(), reason, warnings)
        path = Path(config.out) / parts.tuned.kind
        if processes.is_main:
            index = index_rollouts(parts.source.folder, trainer.tokens)
            about = {"metrics": {"steps": trainer.step_count}}
            save_result(parts.tuned, path, about | trained_method(config, parts.tuned, index, trainer.tokens))
            again = probe(load_result(parts.tuned, path), parts.tuned.tokenizer)
            proof = prove(first, probe(parts.tuned.model, parts.tuned.tokenizer), again, path)
            record = record.model_copy(update={"proof": proof})
            write_json(Path(config.out, RECORD), record.to_dict())
            draw_run(config.out)
        processes.wait()
        return ReinforceResult(
            path, parts.tuned.kind, reason, trainer.step_count, record, Path(config.out, PAGE)
        )


def _start(parts: ReinforceParts) -> ReinforceStart:
    """What was known before the first step: measured, or what a stopped run had measured.

    Errors: `TrainingError` where there is nothing to learn; `ConfigError` for a damaged file.
    """
    out = parts.config.out
    if is_reinforce_run(out):
        known = read_start(out)
        # Settings that are free to change may decide what is measured, so all must be the same.
        if known.config == json.loads(json.dumps(parts.stated)) and known.inputs == parts.inputs:
            return known
    start = parts.start()
    write_json(Path(out, START), start.to_dict())
    return start


def reinforce(model: str, task: str, **settings: Any) -> ReinforceResult:
    """Do what `coterie train reinforce` does, from Python. `settings`: further fields of `ReinforceConfig`.

    Errors: `CoterieError` subclasses, one line each.
    """
    return run_reinforce(ReinforceConfig.from_dict({"model": model, "task": task} | settings, "reinforce"))
