"""The running training as its callbacks see it. The loop implements it, so no callback imports the loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from torch import nn

from coterie.checkpoints.train_state import TrainState
from coterie.machine.processes import Processes

Record = dict[str, Any]
"""One set of measurements: a line of `metrics.jsonl` (fields: `train.callbacks`)."""


class NoMoreSteps(Exception):
    """Raised by a reader of batches to end the run after the last step, with the reason in its words."""


class RunningTraining(Protocol):
    """What callbacks may read of a `Trainer` and ask of it.

    `steps`: the budget. `step_count`, `tokens`: done since the start of the run. `seconds`: spent in steps.
    `stop_reason`: why the run ends after this step. `last_checkpoint`: path of the newest good one.
    """

    model: nn.Module
    processes: Processes
    steps: int
    step_count: int
    tokens: int
    seconds: float
    flops_per_token: float
    stop_reason: str | None
    last_checkpoint: str | None

    def stop(self, reason: str) -> None:
        """Ask the loop to end after the current step."""

    def publish(self, record: Record) -> None:
        """Hand a record of measurements to every callback."""

    def saved(self, path: Path) -> None:
        """Note `path` as the newest good checkpoint and inform every callback."""

    def state(self) -> TrainState:
        """Everything a resumed run needs besides the model's own files."""
        ...
