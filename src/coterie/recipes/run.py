"""The shell around every training run: one builder of the trainer, one way to lock, resume, save and log.

open_run -> (the recipe builds model, rows and objective) -> build_trainer -> execute -> (the recipe finishes)
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from coterie.checkpoints.commit import RunLock
from coterie.config.run import OptimiserConfig, RunSettings, ScheduleConfig
from coterie.data.order import Order, read_batches
from coterie.data.rows import Row
from coterie.machine.glibc import keep_freed_memory
from coterie.machine.processes import Processes
from coterie.nn.transformer import Transformer
from coterie.plan.counts import flops_per_token
from coterie.train.callbacks import Callback, Interrupts, JsonlLog, Progress
from coterie.train.loop import Trainer
from coterie.train.objective import Objective
from coterie.train.optim import build_optimiser
from coterie.train.run_directory import (
    SETTINGS,
    check_same_inputs,
    check_same_run,
    write_inputs,
    write_settings,
)
from coterie.train.running import RunningTraining
from coterie.train.saving import SaveCheckpoint, resume
from coterie.train.schedule import multiplier
from coterie.train.track import Track

_log = logging.getLogger("coterie")


def build_trainer(
    model: Transformer,
    rows: Sequence[Row],
    objective: Objective,
    optimiser: OptimiserConfig,
    schedule: ScheduleConfig,
    *,
    steps: int,
    batch_rows: int,
    seed: int = 0,
    processes: Processes | None = None,
    recompute: bool = False,
    **options: Any,
) -> Trainer:
    """The trainer of a run over `rows`, in the order of `seed`, without callbacks.

    `optimiser`: with its `lr` resolved. `batch_rows`: rows of a micro-batch, over all processes. `recompute`:
    see `RunSettings`. `options`: further arguments of `Trainer`.
    Errors: `ConfigError` for rows that the processes cannot share evenly.
    """
    if optimiser.lr is None:
        raise ValueError("the learning rate must be resolved before a trainer is built")
    processes = processes or Processes.current()
    order = Order(len(rows), seed)
    model.recompute = recompute
    return Trainer(
        model,
        lambda start: read_batches(rows, order, start, batch_rows, processes.rank, processes.world),
        objective,
        build_optimiser(model, optimiser),
        lambda step: multiplier(step, steps, schedule),
        steps=steps,
        lr=optimiser.lr,
        seed=seed,
        flops_per_token=flops_per_token(model.config, len(rows[0].ids), training=True),
        processes=processes,
        **options,
    )


@contextmanager
def open_run(config: RunSettings) -> Iterator[Processes]:
    """Lock the directory of a run and set this process up for it; yields the processes of the run.

    Errors: `ConfigError` for a directory that holds another run; `TrainingError` for one in use.
    """
    out = Path(config.out)
    processes = Processes.current()
    with RunLock(out) if processes.is_main else nullcontext():
        check_same_run(config, out / SETTINGS)
        processes.wait()  # every process must read the old settings before the main one overwrites them
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        keep_freed_memory()
        yield processes


@dataclass
class Run:
    """What a recipe adds to the shell.

    `write(directory)` and `read(directory)`: the model's part of a checkpoint. `callbacks` run before a
    checkpoint is saved, so that their state and records are of the same step. `about(trainer)`: further
    entries of a checkpoint's manifest. `inputs`: what the run reads, in words -> a hash of its content; a run
    goes on over the same inputs only. `stated`: the settings with every choice made (default: as they were
    given).
    """

    trainer: Trainer
    write: Callable[[Path], None]
    read: Callable[[Path], None]
    callbacks: Sequence[Callback] = ()
    about: Callable[[RunningTraining], Mapping[str, Any]] | None = field(default=None)
    inputs: Mapping[str, str] = field(default_factory=dict)
    stated: Mapping[str, Any] | None = None


def execute(config: RunSettings, run: Run, resume_hint: str) -> str:
    """Train from the newest checkpoint of the run's directory, or from the start; returns why it ended.

    Writes `config.yaml`, `metrics.jsonl` and `checkpoints` below `config.out`. `resume_hint`: how a user
    resumes after an interruption. Errors: `ConfigError` for a run over other inputs or of other settings.
    """
    out, trainer = Path(config.out), run.trainer
    check_same(config, run.stated, run.inputs)
    checkpoints = out / "checkpoints"
    trainer.callbacks = [
        *run.callbacks,
        SaveCheckpoint(checkpoints, run.write, config.save_every, config.keep, run.about),
        JsonlLog(out / "metrics.jsonl", config.log_every),
        Progress(out.name),
        *([] if config.track == "none" else [Track(config.track, out)]),
        Interrupts(resume_hint),  # last, so that its line follows everything else
    ]
    path = resume(trainer, checkpoints, run.read)
    if path is not None:
        _log.info("resuming from %s", path)
    if trainer.processes.is_main:
        write_settings(out, config.to_dict() if run.stated is None else run.stated)
        write_inputs(out, run.inputs)
    return trainer.run()


def check_same(config: RunSettings, stated: Mapping[str, Any] | None, inputs: Mapping[str, str]) -> None:
    """Refuse to go on in a directory whose run has other settings or read other inputs.

    Errors: `ConfigError` naming the first that differs.
    """
    out = Path(config.out)
    check_same_run(config, out / SETTINGS, stated)
    check_same_inputs(out, inputs)
