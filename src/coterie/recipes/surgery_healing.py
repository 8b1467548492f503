"""Healing: a few steps of training after surgery, on text or towards the original model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from coterie.config import ConfigError
from coterie.config.run import OptimiserConfig, ScheduleConfig
from coterie.config.weighting import WeightSettings
from coterie.data.rows import MemoryStream, PackedRows
from coterie.nn.parameter_groups import parameter_groups
from coterie.nn.transformer import Transformer
from coterie.recipes.run import build_trainer
from coterie.surgery.receipt import HealingRecord
from coterie.train.callbacks import Callback
from coterie.train.distil import Distillation
from coterie.train.objective import CrossEntropy, Objective
from coterie.train.running import Record, RunningTraining

Part = Literal["all", "router", "ffn"]
_GROUPS = {"router": ("router",), "ffn": ("router", "experts", "shared", "dense")}


@dataclass(frozen=True)
class Healing:
    """`steps` of `batch_rows` rows of `row_length` tokens.

    `part`: what is trained. `distil`: the teacher's share of the loss.
    """

    steps: int
    lr: float = 3e-4
    part: Part = "all"
    distil: float = 1.0
    batch_rows: int = 8
    row_length: int = 256
    seed: int = 0

    def check(self) -> None:
        """Refuse what no model can follow. Errors: `ConfigError`."""
        if self.part not in get_args(Part):
            raise ConfigError(f"--train {self.part}: choose {', '.join(get_args(Part))}")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise ConfigError(f"--lr {self.lr:g}: give a learning rate above 0")

    @property
    def num_tokens(self) -> int:
        """The tokens of text that the steps read, at most 20 million."""
        return min(20_000_000, self.steps * self.batch_rows * self.row_length + self.row_length)


class _Losses(Callback):
    def __init__(self) -> None:
        self.records: list[Record] = []

    def on_record(self, trainer: RunningTraining, record: Record) -> None:
        self.records.append(record)


def heal(
    model: Transformer, teacher: Transformer | None, documents: Sequence[np.ndarray], healing: Healing
) -> HealingRecord:
    """Train `model` in place, towards `teacher` where one is given, else on the text alone.

    Returns what was done, with the first and last loss.
    Errors: `ConfigError` when `part` reaches no parameter.
    """
    length = min(healing.row_length, model.config.max_positions)
    # The separator would follow the last document, which no whole row reaches, so any id will do.
    rows = PackedRows(MemoryStream(documents, eos_id=0), length).whole()
    groups = parameter_groups(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(healing.part == "all" or groups[name] in _GROUPS[healing.part])
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError(f"healing: the model has no {healing.part} to train; choose another --train")
    schedule = ScheduleConfig(kind="cosine", warmup_fraction=0.05, final_ratio=0.1)
    losses = _Losses()
    objective: Objective = CrossEntropy()
    if teacher is not None:
        share = WeightSettings(kind="const", most=healing.distil)
        objective = Distillation(teacher, model.logit_cap, share)
    trainer = build_trainer(
        model,
        rows,
        objective,
        OptimiserConfig(lr=healing.lr, weight_decay=0.0),
        schedule,
        steps=healing.steps,
        batch_rows=healing.batch_rows,
        seed=healing.seed,
        callbacks=[losses],
    )
    trainer.run()
    model.eval().requires_grad_(False)
    found = [record["loss"] for record in losses.records if record["kind"] == "train"]
    return HealingRecord(
        steps=healing.steps,
        tokens=trainer.tokens,
        towards="the original" if teacher is not None else "the text",
        trained=healing.part,
        lr=healing.lr,
        first_loss=found[0],
        last_loss=found[-1],
    )
