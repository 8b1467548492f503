"""What a training run is, as data: model, text, budget, optimiser, schedule and output directory."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from coterie.config.base import Settings
from coterie.config.codistil import CodistilConfig
from coterie.config.data import DataConfig
from coterie.config.effects import Effects, Facts, effective, first_void
from coterie.config.errors import ConfigError
from coterie.config.feed_forward import BalanceConfig
from coterie.config.run_effects import SHARED_EFFECTS, TRAIN_EFFECTS

CONTINUED_WARMUP = 0.1
"""Share of the steps that a run from a given model warms up for: its optimiser's moments start from zero."""


class OptimiserConfig(Settings):
    """AdamW for everything, or Muon for the matrices and AdamW for the rest.

    One `lr` serves both: Muon's update is scaled to the root mean square of AdamW's; None leaves it to what
    is trained (`resolved`). Matrices, the head and the router decay by `lr * weight_decay` per step; norms
    and biases never do; the embedding does where `decay_embeddings`. `expert_lr` is a factor on `lr` for
    routed experts: where their weights sum to 1, each of K experts moves the output by only 1/K of its
    change, and a factor of K makes up for it. `router_lr` is a factor for routers: a step of AdamW moves a
    router's scores by about `lr` times the width, and a large move sends tokens to experts that have not seen
    them.
    """

    name: Literal["adamw", "muon"] = "adamw"
    lr: float | None = Field(None, gt=0)
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.1, ge=0)
    decay_embeddings: bool = False
    expert_lr: float = Field(1.0, gt=0)
    router_lr: float = Field(1.0, gt=0)
    momentum: float = Field(0.95, ge=0, lt=1)
    newton_schulz_steps: int = Field(5, gt=0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas {self.betas} must each be at least 0 and below 1")
        return self

    def resolved(self, lr: float) -> OptimiserConfig:
        """These settings, with `lr` where none is given."""
        return OptimiserConfig.from_dict(self.to_dict() | {"lr": self.lr or lr}, "optimiser")


class ScheduleConfig(Settings):
    """Learning rate over the run, as a factor of the optimiser's `lr`.

    `wsd`: linear warmup, flat, then linear decay over the last `decay_fraction` of the steps. `cosine`:
    warmup, then a half cosine. `constant`: warmup, then flat. Both decays end at `final_ratio`.
    `warmup_steps` replaces the fraction.
    """

    kind: Literal["wsd", "cosine", "constant"] = "wsd"
    warmup_fraction: float = Field(0.02, ge=0, le=1)
    warmup_steps: int | None = Field(None, ge=0)
    decay_fraction: float = Field(0.2, ge=0, le=1)
    final_ratio: float = Field(0.0, ge=0, le=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (
            self.kind == "wsd"
            and self.warmup_steps is None
            and self.warmup_fraction + self.decay_fraction > 1
        ):
            raise ValueError("warmup_fraction + decay_fraction must not be more than 1")
        return self


class RunSettings(Settings):
    """The settings of every run, whatever it trains.

    `accumulate`: micro-batches per optimiser step. `save_every` and `eval_every` count steps (0: only at the
    end). `keep`: number of checkpoints kept. `threads`: None leaves the choice to PyTorch. `recompute`: the
    layers run again in the backward pass instead of being kept, which takes about a third more time and much
    less memory. `track`: where the records are mirrored to.

    For a run that starts from a model: `retention` is text that must not be forgotten (`primer`, a text
    source, or none), and a loss of more than `max_forgetting` bits per byte on it ends the run without a
    result.

    `free_to_change`: settings that may differ when a run resumes, because they do not change what is
    computed. `effects`: what single settings need to have an effect; a setting that was given and has none is
    an error.
    """

    effects: ClassVar[Effects] = SHARED_EFFECTS

    free_to_change: ClassVar[frozenset[str]] = frozenset(
        (
            *("out", "save_every", "eval_every", "keep", "log_every", "threads", "device"),
            *("max_forgetting", "recompute", "track"),
        )
    )

    out: str
    accumulate: int = Field(1, gt=0)
    clip_norm: float | None = Field(1.0, gt=0)
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    device: str = "auto"
    seed: int = Field(0, ge=0)
    save_every: int = Field(200, ge=0)
    eval_every: int = Field(200, ge=0)
    keep: int = Field(2, gt=0)
    log_every: int = Field(1, gt=0)
    threads: int | None = Field(None, gt=0)
    retention: str = "primer"
    max_forgetting: float | None = Field(None, ge=0)
    recompute: bool = False
    track: Literal["none", "tensorboard", "wandb"] = "none"

    @model_validator(mode="after")
    def _no_void_settings(self) -> Self:
        message = first_void(self, self.effects)
        if message is not None:
            raise ValueError(message)
        return self

    def check_facts(self, facts: Facts) -> None:
        """Refuse a given setting that has no effect on what the run now knows of. Errors: `ConfigError`."""
        message = first_void(self, self.effects, facts)
        if message is not None:
            raise ConfigError(message)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types: every setting that has an effect, without choices that are left open (None)."""
        return effective(self, self.effects)


class TrainConfig(RunSettings):
    """One training run.

    `model`: keys of a Hugging Face `config.json` with its `model_type`, or `from: PATH` to start from the
    weights of a checkpoint. Such a run has a smaller default for `optimiser.lr`, by size, and warms up for
    longer (`CONTINUED_WARMUP`); it measures before and after, and keeps the weights of its best evaluation.
    The budget is `tokens` or `steps`. One optimiser step sees `batch_rows * accumulate` rows. `balance`
    replaces fields of the model's `BalanceConfig`. `data_dir`: where prepared data is kept (default: `data`
    in `out`). `mtp_weight`: weight of the loss of layers for multi-token prediction
    (`num_nextn_predict_layers` of deepseek_v3; DeepSeek used 0.3, later 0.1). `codistil`: students that are
    trained together with the model and learn from its predictions.
    """

    free_to_change: ClassVar[frozenset[str]] = RunSettings.free_to_change | {"data_dir"}
    effects: ClassVar[Effects] = TRAIN_EFFECTS

    model: dict[str, Any]
    balance: dict[str, float] = Field(default_factory=dict)
    data: DataConfig
    tokens: int | None = Field(None, gt=0)
    steps: int | None = Field(None, gt=0)
    batch_rows: int = Field(8, gt=0)
    optimiser: OptimiserConfig = OptimiserConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    mtp_weight: float = Field(0.0, ge=0)
    out: str = "runs/train"
    data_dir: str | None = None
    codistil: CodistilConfig | None = None

    @model_validator(mode="before")
    @classmethod
    def _warm_up_again(cls, data: Any) -> Any:
        """A given model takes a longer warm-up, written into the settings so that `config.yaml` shows it."""
        if not (isinstance(data, dict) and isinstance(data.get("model"), dict) and "from" in data["model"]):
            return data
        schedule = data.get("schedule")
        schedule = schedule.model_dump(exclude_unset=True) if isinstance(schedule, Settings) else schedule
        given = schedule if isinstance(schedule, dict) else {}
        if (schedule is not None and not isinstance(schedule, dict)) or given.get("warmup_steps") is not None:
            return data
        return data | {"schedule": {"warmup_fraction": CONTINUED_WARMUP} | given}

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.tokens is None) == (self.steps is None):
            raise ValueError("give the budget as 'tokens' or as 'steps', and not both")
        _check_model("model", self.model)
        BalanceConfig.from_dict(self.balance, "balance")
        if "from" not in self.model and self.max_forgetting is not None:
            raise ValueError("max_forgetting is for 'model.from': a fresh model has nothing to forget")
        for name, student in self.codistil.students.items() if self.codistil else ():
            _check_model(f"codistil.students.{name}.model", student.model)
            self.optimiser_of(name)
        return self

    def optimiser_of(self, student: str) -> OptimiserConfig:
        """The optimiser of a student: the run's, with what the student has otherwise."""
        assert self.codistil is not None
        given = self.codistil.students[student].optimiser
        where = f"codistil.students.{student}.optimiser"
        return OptimiserConfig.from_dict(self.optimiser.to_dict() | given, where)

    def num_steps(self, row_tokens: int) -> int:
        """Optimiser steps of the budget, for rows of `row_tokens` tokens (at least one)."""
        if self.steps is not None:
            return self.steps
        assert self.tokens is not None
        return max(1, round(self.tokens / (row_tokens * self.batch_rows * self.accumulate)))


def _check_model(where: str, model: dict[str, Any]) -> None:
    """Errors: `ValueError` for keys that are neither a model's nor a checkpoint's."""
    if ("from" in model) == ("model_type" in model):
        raise ValueError(
            f"'{where}' needs either 'model_type' (with config.json keys) or 'from' (a checkpoint)"
        )
    if "from" in model and len(model) > 1:
        raise ValueError(
            f"'{where}.from' takes its settings from the checkpoint; remove the other model keys"
        )
