"""Students that a pretraining run trains together with its model, their teacher, as data."""

from __future__ import annotations

import re
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from coterie.config.base import Settings
from coterie.config.feed_forward import BalanceConfig
from coterie.config.weighting import WeightSettings

CONTROL = "-control"
"""Ends the name of a student's control."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


class StudentConfig(Settings):
    """One student: `model` and `balance` as in the run, and what of `optimiser` differs from the run's."""

    model: dict[str, Any]
    balance: dict[str, float] = Field(default_factory=dict)
    optimiser: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> Self:
        BalanceConfig.from_dict(self.balance, "balance")
        return self


class YoungTeacher(WeightSettings):
    """The weighting of a teacher that knows little at first: its share grows over the whole run.

    The gate keeps the share small while the teacher is no better than the student.
    """

    kind: Literal["const", "linear", "gated"] = "gated"
    ramp: float = Field(1.0, ge=0, le=1)


class CodistilConfig(Settings):
    """Co-distillation: `students` by name learn from text and the teacher's predictions of it.

    `weighting`: how much of a token's loss is the teacher's. `temperature`: of both distributions.
    `control`: for each student train the same model from the same start on the same rows by cross-entropy
    alone, so that the difference is what the teacher gave.
    """

    students: dict[str, StudentConfig] = Field(min_length=1)
    weighting: YoungTeacher = YoungTeacher()
    temperature: float = Field(1.0, gt=0)
    control: bool = True

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        for name in self.students:
            if not _NAME.fullmatch(name) or name.endswith(CONTROL):
                raise ValueError(
                    f"the student's name '{name}' becomes a directory: use letters, digits, - and _, and "
                    f"another end than {CONTROL}"
                )
        return self
