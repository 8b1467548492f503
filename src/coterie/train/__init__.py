"""Layer 6: one training loop for every objective, its optimisers, schedules and callbacks."""

from coterie.machine.device import choose_device, choose_dtype
from coterie.train.batch import Batch, collate
from coterie.train.callbacks import (
    Callback,
    Evaluate,
    Interrupts,
    JsonlLog,
    Progress,
    StopAfter,
    read_records,
)
from coterie.train.loop import Batches, Trainer
from coterie.train.objective import CrossEntropy, Objective
from coterie.train.optim import Muon, Optimiser, build_optimiser, parameter_roles
from coterie.train.running import Record, RunningTraining
from coterie.train.saving import SaveCheckpoint, resume
from coterie.train.schedule import multiplier
from coterie.train.track import Track

__all__ = [
    "Batch",
    "Batches",
    "Callback",
    "CrossEntropy",
    "Evaluate",
    "Interrupts",
    "JsonlLog",
    "Muon",
    "Objective",
    "Optimiser",
    "Progress",
    "Record",
    "RunningTraining",
    "SaveCheckpoint",
    "StopAfter",
    "Track",
    "Trainer",
    "build_optimiser",
    "choose_device",
    "choose_dtype",
    "collate",
    "multiplier",
    "parameter_roles",
    "read_records",
    "resume",
]
