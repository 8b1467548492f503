"""What a distillation on the student's own replies is, as data: student, teacher, prompts, loss, control."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from coterie.config.base import number_as_text
from coterie.config.effects import Effect, Effects
from coterie.config.method_run import MethodRun, TuneSchedule, hold_short_names
from coterie.config.run_effects import METHOD_EFFECTS

_DIVERGENCE = Effect(lambda settings, _: settings.loss == "divergence", "loss=divergence", True)
_TASK = Effect(lambda settings, _: settings.task is not None, "a 'task'")
ON_POLICY_EFFECTS: Effects = {
    "beta": _DIVERGENCE,
    "own": _DIVERGENCE,
    "levels": _TASK,
    "instruction": _TASK,
    "eval": Effect(lambda settings, _: settings.examples is not None, "'examples'", True),
    "max_forgetting": Effect(lambda settings, _: False, "a tuning run"),
    "retention": Effect(lambda settings, _: False, "a tuning run", True),
} | dict(METHOD_EFFECTS)


class OnPolicyConfig(MethodRun):
    """One distillation on policy: `model` (or `student`) replies, and `teacher` corrects what it wrote.

    Each step takes `prompts` prompts, of a `task` at `levels` or of `examples` (tuning data, up to the
    assistant's last words), and samples `group` replies of at most `max_tokens` tokens to each at temperature
    1. `steps` counts optimiser steps.

    `loss`: `divergence` compares both distributions at each position of a reply; `beta` 1 is the reverse KL,
    0 the forward KL, and between them is the generalised Jensen-Shannon divergence (GKD, arXiv 2306.13649).
    `policy` is a policy gradient whose reward for a token is how much likelier the teacher finds it: the same
    gradient on average, with more noise. `own`: the share of replies that the student writes; the teacher
    writes the others, which helps a student that hardly answers yet.

    `eval`: share of the examples whose prompts are held out, or a file. `eval_prompts` held-out prompts
    measure the reverse KL every `eval_every` steps, before and after. `control`: the same student learns by
    cross-entropy from the teacher's replies to the same prompts, as many tokens in as many steps.
    """

    effects: ClassVar[Effects] = ON_POLICY_EFFECTS
    free_to_change: ClassVar[frozenset[str]] = MethodRun.free_to_change | {"control"}

    teacher: str
    task: str | None = None
    levels: str | None = None
    instruction: bool = False
    examples: list[str] | None = Field(None, min_length=1)
    eval: float | str = 0.05
    out: str = "runs/on-policy"
    steps: int = Field(100, gt=0)
    prompts: int = Field(32, gt=0)
    group: int = Field(1, gt=0)
    max_tokens: int = Field(128, gt=0)
    loss: Literal["divergence", "policy"] = "divergence"
    beta: float = Field(1.0, ge=0, le=1)
    own: float = Field(1.0, ge=0, le=1)
    eval_prompts: int = Field(200, gt=0)
    eval_every: int = Field(20, ge=0)
    save_every: int = Field(20, ge=0)
    control: bool = True
    balance: Literal["arch", "none"] | float = "none"
    dtype: Literal["auto", "float32", "bfloat16"] = "float32"
    schedule: TuneSchedule = TuneSchedule(kind="constant")

    _levels = field_validator("levels", mode="before")(number_as_text)

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        result = {"model" if key == "student" else key: value for key, value in data.items()}
        hold_short_names(result)
        return result

    @field_validator("examples", mode="before", json_schema_input_type=str | list[str])
    @classmethod
    def _one_source(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _check_prompts(self) -> Self:
        if (self.task is None) == (self.examples is None):
            raise ValueError("what are the prompts? give either 'task' or 'examples'")
        if self.prompts % self.accumulate:
            raise ValueError(
                f"prompts {self.prompts} cannot be shared by {self.accumulate} micro-batches; give a multiple"
            )
        return self
