"""What `coterie train` adds to a run from a given model: before and after, the best weights, a report."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from coterie.checkpoints.directory import load_state_into
from coterie.checkpoints.tensor_writer import write_model_files
from coterie.config.run import TrainConfig
from coterie.data.build import Prepared
from coterie.data.heldout import measured_tokens, retention_documents
from coterie.evaluate.bits import DocumentScore
from coterie.evaluate.tuning import change, score_retention
from coterie.nn.transformer import Transformer
from coterie.recipes.heldout import evaluation_documents, heldout_scores
from coterie.recipes.pretrainer import stated_training
from coterie.recipes.retention import require_remembered
from coterie.recipes.tune_report import with_report
from coterie.report.tuning_page import tuning_lines
from coterie.results.tuning import TuningChange, TuningRecord
from coterie.train.keep_best import KeepBest
from coterie.train.loop import Trainer

_log = logging.getLogger("coterie")

_LOOKS = 4  # evaluations in a short run, so that it has a best one to keep
_LEAST_STEPS = 10  # between two of them: an evaluation costs as much as a few steps


def evaluation_interval(config: TrainConfig, steps: int) -> int:
    """Steps between evaluations of a run from a given model: `eval_every`, or fewer in a short run."""
    return config.eval_every and min(config.eval_every, max(_LEAST_STEPS, math.ceil(steps / _LOOKS)))


class Continued:
    """The measurements around a run from a given model. Created before the first step.

    Held-out text of the new data: half of it chooses the best evaluation, the other half judges the result.
    `choosing`, `judging`: these texts.
    """

    def __init__(self, config: TrainConfig, prepared: Prepared, trainer: Trainer, model: Transformer) -> None:
        self.config, self.prepared, self.trainer, self.model = config, prepared, trainer, model
        step_tokens = config.batch_rows * config.accumulate * prepared.row_length
        num_tokens = measured_tokens(trainer.steps * step_tokens)
        self.choosing = evaluation_documents(prepared, num_tokens, "search", cut=True)
        self.judging = evaluation_documents(prepared, num_tokens, "final", cut=True)
        self.retained = retention_documents(config.retention, prepared.tokenizer, num_tokens)
        self.best = KeepBest(
            Path(config.out) / "best",
            "heldout_bits_per_byte",
            write=lambda path: write_model_files(path, model, prepared.tokenizer),
            read=lambda path: load_state_into(model, path),
        )
        self.before = self._scores()
        self.kept = trainer.step_count
        _log.info("from %s: learning rate %g, %d steps", config.model["from"], trainer.lr, trainer.steps)

    def take_best(self) -> float:
        """Give the model the weights of the best evaluation; returns its bits per byte."""
        self.kept = self.best.restore(self.trainer)
        return self.best.value

    def finish(self, reason: str, path: Path, write: Callable[[], None]) -> TuningRecord:
        """Measure the model again, write it to `path` with `write`, and report.

        The main process writes, the others wait for it. The report is written whatever happens.
        Errors: `TrainingError` for a model that forgot more than `max_forgetting`; no model remains then.
        """
        after = self._scores()
        text, retention = (
            None if not old else change(old, new) for old, new in zip(self.before, after, strict=True)
        )
        record = TuningRecord(
            config=stated_training(self.config, self.trainer, self.model),
            data=self._about_data(),
            skipped=[],
            plan=[],
            coverage=[],
            ended=reason,
            warnings=self._warnings(text, retention),
            held_out_text=text,
            retention=retention,
        )
        if self.trainer.processes.is_main:
            record = self._write(record, path, write)
        self.trainer.processes.wait()
        return record

    def _write(self, record: TuningRecord, path: Path, write: Callable[[], None]) -> TuningRecord:
        def checked() -> dict[str, Any]:
            require_remembered(self.config, record.retention, "training")
            write()
            return {}

        record = with_report(record, path, f"Training {self.config.model['from']} further", checked)
        for line in tuning_lines(record):
            _log.info("%s", line)
        return record

    def _scores(self) -> tuple[list[DocumentScore], list[DocumentScore]]:
        training = self.model.training
        self.model.eval()
        text = heldout_scores(self.model, self.prepared, self.judging)
        found = text, score_retention(self.model, self.prepared.tokenizer.document_start[0], self.retained)
        self.model.train(training)
        return found

    def _about_data(self) -> str:
        total = self.prepared.card.total("train")
        rows = self.config.batch_rows * self.config.accumulate
        return (
            f"{total.documents:,} documents, {total.tokens:,} tokens; {self.trainer.steps:,} steps of {rows} "
            f"rows of {self.prepared.row_length}"
        )

    def _warnings(self, text: TuningChange | None, retention: TuningChange | None) -> list[str]:
        lines = []
        if self.kept != self.trainer.step_count:
            lines.append(
                f"held-out text was best after step {self.kept}, so the model is of that step and not of "
                f"step {self.trainer.step_count}"
            )
        if text is not None and text.change.value >= 0:
            worse = "worse" if text.verdict == "worse" else "not better"
            lines.append(
                f"on held-out text the trained model is {worse} than {self.config.model['from']} "
                f"({text.before:.3f} -> {text.after:.3f} bits per byte); use that, or train again with a "
                f"smaller optimiser.lr (it was {self.trainer.lr:g}), more steps or other text"
            )
        learnt = -text.change.value if text is not None else 0.0
        if retention is not None and retention.verdict == "worse" and retention.change.value > learnt:
            lines.append(
                f"the model forgot more ({retention.change.value:+.3f} bits per byte of "
                f"{self.config.retention}) than it learnt; mix in text like that of its first training or "
                "use a smaller optimiser.lr; max_forgetting refuses such a result"
            )
        return lines
