"""What a pool of problems is made from, as data: model, task, how many replies, and which problems stay."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from coterie.config.base import Settings, number_as_text


class SamplingOptions(Settings):
    """How the replies of a model on disk are sampled: what pools and rejection sampling share.

    `max_tokens` and `instruction` should be those of the training that follows.
    """

    levels: str | None = Field(None, description="Levels, such as 3 or 0-4 (default: 0 to 9).")
    max_tokens: int = Field(128, ge=1, description="Longest reply, in tokens.")
    instruction: bool = Field(False, description="Say in a system message how to answer.")
    seed: int = Field(0, ge=0, description="Same seed, same problems and replies.")
    device: str = Field("auto", description="cpu, cuda, or auto.")
    dtype: Literal["float32", "bfloat16", "auto"] = Field("float32", description="What is computed in.")
    threads: int | None = Field(None, ge=1, description="Threads of the processor.")


class PoolOptions(SamplingOptions):
    """How a pool is made, whatever the model.

    `replies` at temperature 1 to each of `problems` training problems at `levels`; problems whose share of
    right replies is above `low` and below `high` stay.
    """

    problems: int = Field(500, ge=1, description="Problems to try.")
    replies: int = Field(8, ge=1, description="Replies to each.")
    low: float = Field(0.0, ge=0, le=1, description="Problems stay above this share of right replies.")
    high: float = Field(0.9, ge=0, le=1, description="Problems stay below this share of right replies.")

    _levels = field_validator("levels", mode="before")(number_as_text)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low {self.low} must be below high {self.high}")
        return self


class PoolConfig(PoolOptions):
    """One pool of `task` for `model`.

    `out`: the file; the replies are kept in a folder of the same name.
    """

    model: str
    task: str
    out: str = "pool.jsonl"
