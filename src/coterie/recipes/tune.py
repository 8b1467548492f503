"""Tuning: wires a `TuneConfig` into examples, model, loop and proof. Run again, it resumes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from coterie.config.tune import TuneConfig
from coterie.contamination.index import Stage
from coterie.data.heldout import retention_documents
from coterie.evaluate.tuning import measure
from coterie.machine.processes import Processes
from coterie.recipes.method_trainer import method_shell
from coterie.recipes.run import check_same, execute, open_run
from coterie.recipes.tune_cost import TuneCost, tuning_cost
from coterie.recipes.tune_finish import finish
from coterie.recipes.tune_run import TuneRun, build_run, log_plan, watchers
from coterie.results.tuning import GroupPlan, TuningRecord
from coterie.train.callbacks import STOPPED
from coterie.train.routing_guard import RouterGuard

_log = logging.getLogger("coterie")


@dataclass(frozen=True)
class TuneResult:
    """How a run ended.

    `path`: the adapter, patch or model (None for a run that was stopped, or a dry run). `report`: what
    `report.json` holds (None for a run that was stopped). `cost`: of a dry run, what it would take.
    """

    path: Path | None
    kind: str
    reason: str
    steps: int
    tokens: int
    seconds: float
    report: TuningRecord | None = None
    cost: TuneCost | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        plain = {field.name: getattr(self, field.name) for field in fields(self)}
        return plain | {
            "path": str(self.path) if self.path else None,
            "report": self.report.to_dict() if self.report else {},
            "cost": asdict(self.cost) if self.cost else None,
        }


def tune(model: str, data: str | Sequence[str], **settings: Any) -> TuneResult:
    """Do what `coterie tune` does, from Python. `settings`: further fields of `TuneConfig` by name.

    Errors: `CoterieError` subclasses, one line each.
    """
    sources = [data] if isinstance(data, str) else list(data)
    return run_tune(TuneConfig.from_dict({"model": str(model), "data": sources} | settings, "tune"))


def run_tune(
    config: TuneConfig, resume_hint: str = "the same command", dry_run: bool = False, stage: Stage = "tune"
) -> TuneResult:
    """Run the tuning that `config` describes, or resume it.

    Writes `config.out`: `config.yaml`, `metrics.jsonl`, `checkpoints/step-NNNNNN`, `report.json`, and the
    result as `adapter` (in PEFT's format), `patch` or `model`, as the method says. `dry_run`: log the plan
    and the cost, and write nothing. `stage`: what the index of the examples calls this training.
    Errors: `CoterieError` subclasses, one line each; an incomplete result is removed.
    """
    if dry_run:
        run = build_run(config, Processes())
        record = _record(run, log_plan(run), "dry run")
        cost = tuning_cost(run)
        _log.info("%s", cost.words())
        return TuneResult(None, run.tuned.kind, "dry run", 0, 0, 0.0, record, cost)
    with open_run(config) as processes:
        run = build_run(config, processes, stage)
        tuned, trainer, config = run.tuned, run.trainer, run.config
        check_same(config, run.stated, run.inputs)  # before the measurements, which take time
        documents = retention_documents(config.retention, tuned.tokenizer, run.data.num_measured_tokens)
        before = measure(tuned, run.data, documents)
        plan = log_plan(run)
        shell = method_shell(trainer, tuned, watchers(run, before.probes), run.inputs, run.stated)
        reason = execute(config, shell, resume_hint)
        place = (trainer.step_count, trainer.tokens, trainer.seconds)
        if reason in STOPPED:
            return TuneResult(None, tuned.kind, reason, *place)
        run.coverage.require_frozen(tuned.model)
        path, record = finish(run, documents, before, _record(run, plan, reason))
        return TuneResult(path, tuned.kind, reason, *place, record)


def _record(run: TuneRun, plan: list[GroupPlan], reason: str) -> TuningRecord:
    """The part of the report that is known when training ends."""
    guards = (c for c in run.trainer.callbacks if isinstance(c, RouterGuard))
    return TuningRecord(
        config=run.stated,
        data=run.data.summary(),
        skipped=run.data.skipped,
        plan=plan,
        coverage=run.coverage.found or [],
        ended=reason,
        warnings=[*run.data.warnings, *(line for guard in guards for line in guard.warnings)],
    )
