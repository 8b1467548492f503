"""Trainers that step together with another one, in the same run and its checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from coterie.checkpoints.train_state import read_train_state, write_train_state
from coterie.config.errors import CheckpointError, TrainingError
from coterie.train.callbacks import STUDENT, Callback
from coterie.train.loop import Trainer
from coterie.train.running import RunningTraining


class Lockstep(Callback):
    """Each of `members` makes one step for each step of the run, before the run's model moves.

    So members may read what the run's model computed in the same step. Their records are published as of the
    kind `student/NAME`. Errors of a step: `TrainingError` naming the member.
    """

    def __init__(self, members: Mapping[str, Trainer]) -> None:
        self.members = dict(members)

    def after_backward(self, trainer: RunningTraining) -> None:
        for name, member in self.members.items():
            try:
                record = member.step()
            except TrainingError as error:
                raise TrainingError(f"{name}: {error}") from None
            trainer.publish(record | {"kind": f"{STUDENT}{name}"})

    def write(self, directory: Path, write_model: Callable[[Path, str], None]) -> None:
        """Add every member's model and training state to a checkpoint, in `directory/NAME`."""
        for name, member in self.members.items():
            folder = directory / name
            folder.mkdir(parents=True)
            write_model(folder, name)
            write_train_state(folder, member.state())

    def read(self, directory: Path, read_model: Callable[[Path, str], None]) -> None:
        """Restore what `write` wrote. Errors: `CheckpointError` for what is missing or another member's."""
        for name, member in self.members.items():
            folder = directory / name
            if not folder.is_dir():
                raise CheckpointError(f"{directory}: lacks the student {name}; choose another 'out'")
            read_model(folder, name)
            try:
                member.load_state(read_train_state(folder))
            except CheckpointError as error:
                raise CheckpointError(f"{folder}: {error}") from None
