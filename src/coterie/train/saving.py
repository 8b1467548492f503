"""Checkpoints of a run: when they are written, what is kept, and how a run resumes from one."""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from coterie.checkpoints.commit import (
    commit_directory,
    newest_valid,
    step_directories,
    step_path,
)
from coterie.checkpoints.train_state import read_train_state, state_bytes, write_train_state
from coterie.config.errors import CheckpointError, TrainingError
from coterie.config.temporaries import remove_dead, remove_tree
from coterie.nn.kernels import measured
from coterie.train.callbacks import Callback
from coterie.train.loop import Trainer
from coterie.train.running import RunningTraining

_log = logging.getLogger("coterie")
_SPARE_BYTES = 1 << 20  # tokenizer, config, manifest and file system overhead
_COUNTS = ("step", "tokens", "next_sample", "seconds", "seed", "threads")  # of `TrainState.progress`


class SaveCheckpoint(Callback):
    """Commits `run_dir/step-NNNNNN` every `every` steps (0: never) and at a clean end; keeps `keep`.

    `write_model(directory)` writes the model's files; `extra(trainer)` returns manifest entries. A save that
    fails is logged in one line, and the run continues with the last good checkpoint intact. If the save at
    the end fails, the run ends with `TrainingError`.
    """

    def __init__(
        self,
        run_dir: Path,
        write_model: Callable[[Path], None],
        every: int,
        keep: int = 2,
        extra: Callable[[RunningTraining], Mapping[str, Any]] | None = None,
    ) -> None:
        if keep < 1:
            raise ValueError(f"keep {keep}: at least one checkpoint must be kept")
        self.run_dir = Path(run_dir)
        self.write_model = write_model
        self.every = every
        self.keep = keep
        self.extra = extra
        self._saved_at = -1

    def on_start(self, trainer: RunningTraining) -> None:
        if trainer.processes.is_main:
            self.run_dir.mkdir(parents=True, exist_ok=True)
            remove_dead(self.run_dir)
        self._saved_at = trainer.step_count if trainer.last_checkpoint else -1

    def after_step(self, trainer: RunningTraining) -> None:
        if self.every > 0 and trainer.step_count % self.every == 0:
            problem = self._save(trainer)
            if problem:
                _log.warning("%s; training continues", problem)

    def on_end(self, trainer: RunningTraining, error: BaseException | None) -> None:
        if error is not None or self._saved_at == trainer.step_count:
            return
        problem = self._save(trainer)
        if problem:
            raise TrainingError(problem)

    def _save(self, trainer: RunningTraining) -> str | None:
        """Commit a checkpoint in the main process. Returns the problem in one line, or None, in all."""
        path = step_path(self.run_dir, trainer.step_count)
        problem = self._commit(trainer, path) if trainer.processes.is_main else None
        problem = trainer.processes.first_reason(problem)
        if problem is None:
            self._saved_at = trainer.step_count
            trainer.saved(path)
        return problem

    def _commit(self, trainer: RunningTraining, path: Path) -> str | None:
        state = trainer.state()
        needed = (
            state_bytes(state.tensors) + state_bytes(dict(trainer.model.named_parameters())) + _SPARE_BYTES
        )

        def write(directory: Path) -> None:
            self.write_model(directory)
            write_train_state(directory, state)

        manifest = {
            "step": trainer.step_count,
            "tokens": trainer.tokens,
            **(self.extra(trainer) if self.extra else {}),
        }
        last = f"the last good checkpoint: {trainer.last_checkpoint or 'none yet'}"
        free = shutil.disk_usage(self.run_dir).free
        if free < needed:
            sizes = f"{needed >> 20} MiB are needed and {free >> 20} MiB free"
            return f"{path}: not saved, {sizes}; make room; {last}"
        try:
            commit_directory(path, write, manifest)
        except CheckpointError as error:
            return f"{error}; {last}"
        for _, old in step_directories(self.run_dir)[: -self.keep]:
            if old != path:
                remove_tree(old)
        return None


def resume(trainer: Trainer, run_dir: Path, load_model: Callable[[Path], None]) -> Path | None:
    """Set `trainer` to the newest checkpoint of `run_dir` that verifies.

    Returns its path, or None for a fresh start. `load_model(directory)` loads the weights into the trainer's
    model. Resuming is bit-exact on the same CPU at the same thread count and PyTorch version; a warning says
    when they differ. Newer checkpoints that do not verify are removed: the run writes those steps again.
    Errors: `CheckpointError` when there are checkpoints and none verifies.
    """
    run_dir = Path(run_dir)
    is_main = trainer.processes.is_main
    if run_dir.is_dir() and is_main:
        remove_dead(run_dir)
    path = newest_valid(run_dir)
    if path is None:
        if step_directories(run_dir):
            raise CheckpointError(
                f"{run_dir}: none of its checkpoints is whole; move them away or choose another 'out'"
            )
        return None
    state = read_train_state(path)
    _check_progress(path, state.progress)
    _take_products(path, state.progress)
    load_model(path)
    try:
        trainer.load_state(state)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    trainer.last_checkpoint = str(path)
    for step, damaged in step_directories(run_dir):
        if step > trainer.step_count and is_main:
            remove_tree(damaged)
    for name, now in (("threads", torch.get_num_threads()), ("torch", torch.__version__)):
        if state.progress[name] != now:
            _log.warning(
                "%s was trained with %s %s, now %s: results may differ in the last digits",
                path, name, state.progress[name], now,
            )  # fmt: skip
    return path


def _take_products(path: Path, progress: Mapping[str, Any]) -> None:
    """Compute products as the run did before, whatever this machine's cache says now.

    On another machine its own choices hold, because results differ there in any case.
    """
    before, products = progress.get("machine"), progress.get("products")
    if not isinstance(before, str) or not isinstance(products, Mapping) or not products:
        return  # an earlier version wrote it, or no product of the run had a choice
    if before != measured.machine():
        change = f"on another machine ({before})"
    elif not measured.hold(products):
        change = f"with other products than {measured.VARIABLE} chooses now"
    else:
        return
    _log.warning("%s was trained %s: results may differ in the last digits", path, change)


def _check_progress(path: Path, progress: Mapping[str, Any]) -> None:
    """Errors: `CheckpointError` for a value that no run of this version writes."""
    for name in (*_COUNTS, "torch"):
        value = progress.get(name)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        wanted = isinstance(value, str) if name == "torch" else number and 0 <= float(value or 0) < math.inf
        if not wanted or (name not in ("torch", "seconds") and not isinstance(value, int)):
            raise CheckpointError(
                f"{path}: train/state.json has {value!r} as '{name}', which no run writes; use the coterie "
                "that wrote it, or remove this checkpoint to go on from the one before"
            )
