"""What happens around the loop: records, progress, evaluation, a time limit, signals.

`metrics.jsonl` holds one JSON object per line, in order of `step`. A `kind: train` line has `TRAIN_FIELDS`,
for MoE models also `MOE_FIELDS`, and the objective's own metrics. A `kind: eval` line has step, tokens,
seconds, flops and what the evaluation function returned. A `kind: student/NAME` line has the train fields
of a model that is trained together with the run's. A `kind: end` line closes each process's share of
the run: reason, step, tokens, seconds, peak_memory_bytes.
"""

from __future__ import annotations

import json
import logging
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import IO, Any

import torch

from coterie.config.errors import TrainingError
from coterie.config.files import write_text
from coterie.config.json_text import JsonError, parse_json_object
from coterie.train.running import Record, RunningTraining

_log = logging.getLogger("coterie")

STUDENT = "student/"
"""Begins the kind of a train record of a model that steps together with the run's (`train.lockstep`)."""
TRAIN_FIELDS = {
    "kind": "train",
    "step": "optimiser steps done",
    "tokens": "tokens trained on since the start, padding excluded",
    "seconds": "time spent in steps since the start, saving and evaluation excluded",
    "flops": "floating-point operations since the start, forward and backward",
    "loss": "mean of the objective per unit of token weight in this step (nats per token for cross-entropy)",
    "bits_per_byte": "loss / ln 2 / bytes per token, or null where bytes per token are not known",
    "lr": "learning rate of this step",
    "grad_norm": "norm of the whole gradient before clipping",
    "tokens_per_second": "of this step",
    "eta_s": "seconds of training left at the mean speed so far",
}
MOE_FIELDS = {
    "dead_experts": "experts that received no token in this step, summed over layers",
    "worst_overload": "largest share of an expert over the uniform share, over layers",
    "balance_loss": "mean over layers of E * sum(f * P); 1 when uniform",
    "z_loss": "mean over layers of the mean squared log-sum-exp of router logits",
    "load_entropy": "mean over layers of the entropy of expert shares over its maximum",
}


class Callback:
    """Hooks that do nothing by default. Callbacks run in list order, so evaluation comes before saving."""

    def on_start(self, trainer: RunningTraining) -> None:
        """Before the first step of this process; a resumed trainer is already at its step."""

    def on_record(self, trainer: RunningTraining, record: Record) -> None:
        """A record was published (`Trainer.publish`)."""

    def after_backward(self, trainer: RunningTraining) -> None:
        """The gradients of a step are complete; the optimiser has not yet moved."""

    def after_step(self, trainer: RunningTraining) -> None:
        """A step and its record are done."""

    def on_save(self, trainer: RunningTraining, path: Path) -> None:
        """A checkpoint was committed at `path`."""

    def on_end(self, trainer: RunningTraining, error: BaseException | None) -> None:
        """The run ended; `error` is what ended it early, None after a clean end."""

    def state_dict(self) -> dict[str, Any]:
        """State to keep in a checkpoint (JSON types), stored under the class's name."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""


class JsonlLog(Callback):
    """Appends records to a JSONL file; on start it drops records after the trainer's step.

    `every`: write every n-th train record, and the last. The file is opened anew for each record, so that
    every finished line is on disk however the process ends.
    """

    def __init__(self, path: Path, every: int = 1) -> None:
        self.path = Path(path)
        self.every = every

    def on_start(self, trainer: RunningTraining) -> None:
        if not trainer.processes.is_main:
            return
        # A killed run may have logged steps after its last checkpoint; the resumed run writes them again.
        self.path.parent.mkdir(parents=True, exist_ok=True)
        kept = (
            [r for r in read_records(self.path) if r["step"] <= trainer.step_count]
            if self.path.exists()
            else []
        )
        write_text(self.path, "".join(json.dumps(r) + "\n" for r in kept))

    def on_record(self, trainer: RunningTraining, record: Record) -> None:
        if not trainer.processes.is_main:
            return
        frequent = record["kind"] == "train" or record["kind"].startswith(STUDENT)
        if frequent and record["step"] % self.every and record["step"] != trainer.steps:
            return
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps(record, allow_nan=False) + "\n")
        except OSError as error:
            raise TrainingError(
                f"{self.path}: cannot be written ({error.strerror}); make room and run again"
            ) from None


def read_records(path: Path) -> list[Record]:
    """The records of a JSONL file, without a last line that a kill cut short.

    Errors: `TrainingError` naming any other line that is not a JSON object with kind and step.
    """
    try:
        lines = Path(path).read_bytes().split(b"\n")
    except OSError as error:
        raise TrainingError(f"{path}: cannot be read ({error.strerror})") from None
    records: list[Record] = []
    # The part after the last newline is empty, or a kill cut it short.
    for number, line in enumerate(lines[:-1], start=1):
        try:
            record = parse_json_object(line)
        except JsonError as error:
            raise TrainingError(f"{path}: line {number} {error}; remove it") from None
        if not isinstance(record.get("kind"), str) or type(record.get("step")) is not int:
            raise TrainingError(f"{path}: line {number} lacks a 'kind' or the number of a 'step'; remove it")
        records.append(record)
    return records


class Progress(Callback):
    """Shows where the run is: one live line on a terminal, elsewhere a log line every `seconds`.

    The last step is always shown. Only the main process shows progress, and only where the logger `coterie`
    shows messages.
    """

    def __init__(self, label: str = "", stream: IO[str] | None = None, seconds: float = 10.0) -> None:
        self.label = label
        self.stream = stream if stream is not None else sys.stderr
        self.seconds = seconds
        self._live = self.stream.isatty()
        self._shown_at = -float("inf")
        self._width = 0

    def on_record(self, trainer: RunningTraining, record: Record) -> None:
        if record["kind"] != "train" or not (trainer.processes.is_main and _log.isEnabledFor(logging.INFO)):
            return
        now, last = time.monotonic(), record["step"] >= trainer.steps
        if not last and now - self._shown_at < (0.1 if self._live else self.seconds):
            return
        self._shown_at = now
        line = f"{self.label} {progress_line(record, trainer.steps)}".strip()
        if not self._live:
            _log.info("%s", line)
            return
        self.stream.write("\r" + line.ljust(self._width))
        self.stream.flush()
        self._width = len(line)

    def on_end(self, trainer: RunningTraining, error: BaseException | None) -> None:
        if self._live and self._width:
            self.stream.write("\n")
            self.stream.flush()


def progress_line(record: Record, steps: int) -> str:
    """`step 12/400 | loss 3.402 | 1.51 bits/byte | 5.3k tok/s | ETA 4:10 | dead 0 | overload 1.8x`."""
    parts = [f"step {record['step']}/{steps}", f"loss {record['loss']:.3f}"]
    if record["bits_per_byte"] is not None:
        parts.append(f"{record['bits_per_byte']:.3f} bits/byte")
    speed, eta = record["tokens_per_second"], round(record["eta_s"])
    parts.append(f"{speed / 1000:.1f}k tok/s" if speed >= 1000 else f"{speed:.0f} tok/s")
    hours, minutes = eta // 3600, eta // 60 % 60
    parts.append(f"ETA {hours}:{minutes:02d}:{eta % 60:02d}" if hours else f"ETA {minutes}:{eta % 60:02d}")
    if "dead_experts" in record:
        parts.append(f"dead {record['dead_experts']:.0f}")
        parts.append(f"overload {record['worst_overload']:.1f}x")
    return " | ".join(parts)


class Evaluate(Callback):
    """Publishes `fn(trainer)` as a record every `every` steps and after the last (0: only the last)."""

    def __init__(self, every: int, fn: Callable[[RunningTraining], Mapping[str, float]]) -> None:
        self.every = every
        self.fn = fn
        self._done_at = -1

    def after_step(self, trainer: RunningTraining) -> None:
        due = trainer.step_count >= trainer.steps or (self.every > 0 and trainer.step_count % self.every == 0)
        if due:
            self._evaluate(trainer)

    def on_end(self, trainer: RunningTraining, error: BaseException | None) -> None:
        if error is None and trainer.stop_reason not in STOPPED and self._done_at != trainer.step_count:
            self._evaluate(trainer)

    def _evaluate(self, trainer: RunningTraining) -> None:
        trainer.model.eval()
        with torch.no_grad():
            values = dict(self.fn(trainer))
        trainer.model.train()
        self._done_at = trainer.step_count
        place = {"step": trainer.step_count, "tokens": trainer.tokens, "seconds": trainer.seconds}
        trainer.publish(
            {"kind": "eval", **place, "flops": trainer.flops_per_token * trainer.tokens, **values}
        )


class StopAfter(Callback):
    """Ends the run after `seconds` of wall time in this process, evaluation and saving included."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end_at = float("inf")

    def on_start(self, trainer: RunningTraining) -> None:
        self._end_at = time.monotonic() + self.seconds

    def after_step(self, trainer: RunningTraining) -> None:
        if time.monotonic() >= self._end_at:
            trainer.stop("time is up")


# Why a run was stopped from outside -> the exit status of its command: 128 and the number of the signal.
STOPPED = {"interrupted": 128 + signal.SIGINT, "terminated": 128 + signal.SIGTERM}


class Interrupts(Callback):
    """Ctrl-C and SIGTERM end the run after the current step, so that it is saved; a second one at once.

    Must be last in the list of callbacks: its line on how to resume (`resume_hint`) follows the last save.
    """

    def __init__(self, resume_hint: str) -> None:
        self.resume_hint = resume_hint
        self._before: dict[int, Any] = {}

    def on_start(self, trainer: RunningTraining) -> None:
        def handle(number: int, frame: FrameType | None) -> None:
            if trainer.stop_reason in STOPPED:
                raise KeyboardInterrupt
            trainer.stop_reason = "interrupted" if number == signal.SIGINT else "terminated"

        self._before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}

    def on_end(self, trainer: RunningTraining, error: BaseException | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if trainer.stop_reason in STOPPED and error is None and trainer.processes.is_main:
            saved = f", saved as {trainer.last_checkpoint}" if trainer.last_checkpoint else ""
            _log.info("stopped after step %d%s; to go on: %s", trainer.step_count, saved, self.resume_hint)
