"""Optional mirrors of the record stream: TensorBoard and Weights & Biases."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal

from coterie.config.errors import ConfigError
from coterie.train.callbacks import Callback
from coterie.train.running import Record, RunningTraining


class Track(Callback):
    """Sends every numeric field of every record, by step, to `kind`; files go below `run_dir`.

    Errors: `ConfigError` at once when the package is not installed.
    """

    def __init__(self, kind: Literal["tensorboard", "wandb"], run_dir: Path) -> None:
        self.kind = kind
        self.run_dir = Path(run_dir)
        self._writer: Any = None
        try:
            if kind == "tensorboard":
                from torch.utils.tensorboard import SummaryWriter

                self._open = lambda step: SummaryWriter(
                    str(self.run_dir / "tensorboard"), purge_step=step + 1
                )
            else:
                import wandb

                name = self.run_dir.name
                run = hashlib.sha256(str(self.run_dir.resolve()).encode()).hexdigest()[:16]
                self._open = lambda step: wandb.init(
                    project="coterie", dir=str(self.run_dir), id=run, name=name, resume="allow"
                )
        except ImportError:
            raise ConfigError(
                f"track={kind}: the package is not installed; run `pip install 'coterie[track]'` or "
                "use track=none"
            ) from None

    def on_start(self, trainer: RunningTraining) -> None:
        if trainer.processes.is_main:
            self._writer = self._open(trainer.step_count)

    def on_record(self, trainer: RunningTraining, record: Record) -> None:
        if self._writer is None:
            return  # the record that closes the run comes after the tracker's own end
        values = {
            f"{record['kind']}/{name}": value
            for name, value in record.items()
            if name != "step" and isinstance(value, int | float)
        }
        if self.kind == "wandb":
            self._writer.log(values, step=record["step"])
            return
        for name, value in values.items():
            self._writer.add_scalar(name, value, record["step"])

    def on_end(self, trainer: RunningTraining, error: BaseException | None) -> None:
        if self._writer is not None:
            (self._writer.finish if self.kind == "wandb" else self._writer.close)()
            self._writer = None
