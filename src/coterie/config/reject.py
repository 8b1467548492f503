"""What rejection sampling is, as data: model, task, replies, which are kept, and how they are learnt."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from coterie.config.errors import ConfigError
from coterie.config.pool import SamplingOptions
from coterie.config.tune import TuneConfig

_OURS = ("model", "data", "out")


class RejectOptions(SamplingOptions):
    """Which replies are sampled and which are learnt, whatever the model."""

    pool: str | None = Field(None, description="Ask the problems of this file of coterie pool.")
    base: str | None = Field(None, description="The model that is tuned (default: the sampled one).")
    problems: int = Field(1000, ge=1, description="Problems to ask.")
    replies: int = Field(8, ge=1, description="Replies to each.")
    temperature: float = Field(1.0, ge=0.05, le=2, description="Of the replies.")
    per_problem: int = Field(4, ge=1, description="Different right replies of a problem that are learnt.")
    level_spread: float = Field(
        2.0, ge=0, description="Rows of a level, at most this many times the median of levels (0: all)."
    )
    also: tuple[str, ...] = Field((), description="A further source of rows, such as talk.jsonl:0.3.")
    eval_problems: int = Field(200, ge=1, description="Held-out problems, answered before and after.")

    @model_validator(mode="after")
    def _one_choice_of_problems(self) -> Self:
        if self.pool is not None and self.levels is not None:
            raise ValueError("the pool says which levels are sampled; leave 'levels' out")
        return self


class RejectConfig(RejectOptions):
    """One run: sample from `model` on `task`, keep what is right, tune.

    `tune`: settings of `coterie tune`, by its names.
    """

    model: str
    task: str
    out: str = "runs/reject"
    tune: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> Self:
        self.tuning()
        return self

    @property
    def rows(self) -> Path:
        """Where the rows are written."""
        return Path(self.out, "rows.jsonl")

    def tuning(self) -> TuneConfig:
        """The tuning run on the rows. Errors: `ConfigError`."""
        for name in _OURS:
            if name in self.tune:
                raise ConfigError(f"tune.{name}: follows from the other settings; leave it out")
        settings = {
            "model": self.base or self.model,
            "data": [str(self.rows), *self.also],
            "out": str(Path(self.out, "tune")),
            "seed": self.seed,
            "threads": self.threads,
            "device": self.device,
        }
        return TuneConfig.from_dict(settings | self.tune, "reject: tune")
