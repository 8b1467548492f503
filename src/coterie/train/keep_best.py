"""Keeps the weights of a run's best evaluation, so that a run that gets worse later loses nothing."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path

from coterie.checkpoints.commit import commit_directory, read_manifest, verify_directory
from coterie.config.errors import CheckpointError
from coterie.config.temporaries import remove_tree
from coterie.train.callbacks import Callback
from coterie.train.running import Record, RunningTraining

_log = logging.getLogger("coterie")


class KeepBest(Callback):
    """Commits the model to `directory` whenever an evaluation finds the lowest `metric` so far.

    `write(directory)` and `read(directory)`: the model's files. The evaluation after the last step is not
    written, because the model is then at hand. A copy that cannot be written is named in one line, and the
    run goes on. A resumed run takes up the copy of the run before it.
    """

    def __init__(
        self, directory: Path, metric: str, write: Callable[[Path], None], read: Callable[[Path], None]
    ) -> None:
        self.directory = Path(directory)
        self.metric = metric
        self.write = write
        self.read = read
        self.value = math.inf
        self.step = -1
        self._last = math.inf

    def on_start(self, trainer: RunningTraining) -> None:
        if not self.directory.is_dir():
            return
        problem = None
        try:
            verify_directory(self.directory)
            manifest = read_manifest(self.directory)
            self.value, self.step = float(manifest["value"]), int(manifest["step"])
        except (CheckpointError, KeyError, TypeError, ValueError) as error:
            problem = f"the copy of the best evaluation is not used: {error}"
        # A run that starts anew in the same place must not take up the weights of an earlier one.
        if problem is None and trainer.step_count > 0:
            return
        if problem is not None:
            _log.warning("%s", problem)
        self.value, self.step = math.inf, -1
        trainer.processes.wait()
        if trainer.processes.is_main:
            remove_tree(self.directory)

    def on_record(self, trainer: RunningTraining, record: Record) -> None:
        value = record.get(self.metric)
        if record["kind"] != "eval" or not isinstance(value, float):
            return
        self._last = value
        if not value < self.value or trainer.step_count >= trainer.steps:
            return
        problem = self._commit(trainer, value) if trainer.processes.is_main else None
        problem = trainer.processes.first_reason(problem)
        if problem is not None:
            _log.warning("%s; training continues", problem)
            return
        self.value, self.step = value, trainer.step_count

    def restore(self, trainer: RunningTraining) -> int:
        """Load the best weights unless the last evaluation is as good; returns the step they are of."""
        if self._last > self.value:
            self.read(self.directory)
            return self.step
        self.value = self._last
        # A copy that was used stays, for the same command may run again and must write the same model.
        if trainer.processes.is_main and self.directory.is_dir():
            remove_tree(self.directory)
        return trainer.step_count

    def _commit(self, trainer: RunningTraining, value: float) -> str | None:
        try:
            commit_directory(self.directory, self.write, {"step": trainer.step_count, "value": value})
        except CheckpointError as error:
            return str(error)
        return None
