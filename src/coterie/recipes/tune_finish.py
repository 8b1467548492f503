"""The end of a tuning run: measure again, write the result, prove it from disk, report."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from coterie.adapters.tuned import load_result, prove, save_result
from coterie.data.heldout import HeldoutDocument
from coterie.evaluate.tuning import Measured, change, measure
from coterie.proof.records import probe
from coterie.recipes.retention import require_remembered
from coterie.recipes.tune_report import with_report
from coterie.recipes.tune_run import TuneRun
from coterie.report.tuning_page import tuning_lines
from coterie.results.tuning import TuningRecord

_log = logging.getLogger("coterie")


def finish(
    run: TuneRun, documents: Sequence[HeldoutDocument], before: Measured, record: TuningRecord
) -> tuple[Path, TuningRecord]:
    """Write the proven result; returns its path and the complete record.

    The main process writes, the others wait for it. The report is written whatever happens.
    Errors: `TrainingError` for a model that forgot too much, `CheckpointError` for a result that is not
    the tuned model; no result remains then.
    """
    after = measure(run.tuned, run.data, documents)
    found: dict[str, object] = {}
    if after.examples:
        found |= {"held_out": change(before.examples, after.examples), "preferred": after.preferred}
    if after.retention:
        found["retention"] = change(before.retention, after.retention)
    record = record.model_copy(update=found)
    path = Path(run.config.out) / run.tuned.kind
    if run.trainer.processes.is_main:
        record = _write(run, path, before, after, record)
        for line in tuning_lines(record):
            _log.info("%s", line)
    run.trainer.processes.wait()
    return path, record


def _write(run: TuneRun, path: Path, before: Measured, after: Measured, record: TuningRecord) -> TuningRecord:
    config, trainer = run.config, run.trainer

    def write() -> dict[str, Any]:
        require_remembered(config, record.retention, "tuning")
        save_result(run.tuned, path, {"metrics": {"steps": trainer.step_count, "tokens": trainer.tokens}})
        reloaded = probe(load_result(config, run.tuned, path), run.tuned.tokenizer)
        return {"proof": prove(before.probes, after.probes, reloaded, path)}

    return with_report(record, path, f"Tuning {config.model}", write)
