"""The end of a tuning run: measure again, write the result, prove it from disk, report."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from coterie.adapters.tuned import load_result, prove, save_result
from coterie.data.heldout import HeldoutDocument
from coterie.data.tokenised import count_learnt
from coterie.evaluate.tuning import Measured, change, measure
from coterie.evaluate.tuning_samples import sample_prompts
from coterie.machine.facts import versions
from coterie.machine.system import peak_memory_bytes
from coterie.proof.records import probe
from coterie.recipes.retention import require_remembered
from coterie.recipes.trained_stages import trained_method
from coterie.recipes.tune_report import with_report
from coterie.recipes.tune_run import TuneRun
from coterie.report.tuning_page import tuning_lines
from coterie.results.tuning import TuningRecord, TuningSample

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
    record = record.model_copy(update=found | _circumstances(run, before, after))
    path = Path(run.config.out) / run.tuned.kind
    if run.trainer.processes.is_main:
        record = _write(run, path, before, after, record)
        for line in tuning_lines(record):
            _log.info("%s", line)
    run.trainer.processes.wait()
    return path, record


def _circumstances(run: TuneRun, before: Measured, after: Measured) -> dict[str, object]:
    """Fields of the record: samples, counts, time, memory, versions."""
    data, tokenizer = run.data, run.tuned.tokenizer
    prompts = sample_prompts(data.held_out_examples, tokenizer, run.tuned.model.config.max_positions)
    return {
        "samples": [
            TuningSample(prompt=prompt.text, wanted=prompt.wanted, before=then, after=now)
            for prompt, then, now in zip(prompts, before.replies, after.replies, strict=True)
        ],
        "counts": {
            "examples trained on": len(data.examples),
            "examples held out": len(data.held_out_examples),
            "examples left out": len(data.skipped),
            "tokens": data.num_tokens,
            "tokens learnt": count_learnt(data.examples),
            "rows": len(data.rows),
            "tokens trained on, over all steps": run.trainer.tokens,
        },
        "seconds": run.trainer.seconds,
        "peak_memory_bytes": peak_memory_bytes(),
        "versions": versions(),
    }


def _write(run: TuneRun, path: Path, before: Measured, after: Measured, record: TuningRecord) -> TuningRecord:
    config, trainer = run.config, run.trainer

    def write() -> dict[str, Any]:
        require_remembered(config, record.retention, "tuning")
        about = {"metrics": {"steps": trainer.step_count, "tokens": trainer.tokens}}
        save_result(run.tuned, path, about | trained_method(config, run.tuned, run.index(), trainer.tokens))
        reloaded = probe(load_result(run.tuned, path), run.tuned.tokenizer)
        return {"proof": prove(before.probes, after.probes, reloaded, path)}

    return with_report(record, path, f"Tuning {config.model}", write)
