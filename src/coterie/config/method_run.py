"""What is trained of a given model, and how: the settings that tuning and reinforcement share."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from coterie.config.adapter import ADAPTED_GROUPS, AdapterConfig, RankRule, Treatment
from coterie.config.base import Settings, suggest
from coterie.config.errors import ConfigError
from coterie.config.methods import METHODS, tuning_method
from coterie.config.run import OptimiserConfig, RunSettings, ScheduleConfig

# Short names of settings that the optimiser and the schedule hold.
SHORT = {
    "lr": ("optimiser", "lr"),
    "weight_decay": ("optimiser", "weight_decay"),
    "warmup": ("schedule", "warmup_fraction"),
}


class TuneOptimiser(OptimiserConfig):
    """The optimiser of a tuning run. `lr` None: chosen by method, model size and objective."""

    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = Field(0.0, ge=0)


class TuneSchedule(ScheduleConfig):
    """The schedule of a tuning run."""

    kind: Literal["wsd", "cosine", "constant"] = "cosine"
    warmup_fraction: float = Field(0.05, ge=0, le=1)
    final_ratio: float = Field(0.1, ge=0, le=1)


class MethodRun(RunSettings):
    """A run that trains a given model, or parts of it.

    `model`: a checkpoint directory, a hub id, or an adapter's directory (whose factors are then trained
    further). `train`: the treatment of each group that is trained; groups that are not named are frozen (none
    named: `method` says it). `experts`: a file of chosen experts (of `coterie select`), the only ones that
    are trained. `router`: policy for routers (freeze, full, lora, bias: only their biases, or dense-grad: in
    full, learning also from the experts that were not chosen); None leaves it to `method` and `train`.
    `balance`: the balance losses as the model declares them (arch), none, or a coefficient.
    `balance_prompts`: whether tokens that are not learnt count in the statistics. `optimiser` and `schedule`
    are those of `TrainConfig` with defaults for tuning. `template`: another chat template, a file or the name
    of a shipped one; the result carries it.
    """

    model: str
    method: str = Field("lora", json_schema_extra={"enum": list(METHODS)})
    train: dict[str, Treatment] = Field(default_factory=dict)
    rank: int = Field(16, gt=0)
    alpha: float | None = Field(None, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    rank_rule: RankRule = "per-expert"
    bits: Literal[4, 8] = 4
    experts: str | None = None
    router: Literal["freeze", "full", "lora", "bias", "dense-grad"] | None = None
    balance: Literal["arch", "none"] | float = "arch"
    balance_prompts: bool = True
    optimiser: TuneOptimiser = TuneOptimiser()
    schedule: TuneSchedule = TuneSchedule()
    template: str | None = None

    @model_validator(mode="after")
    def _check_method(self) -> Self:
        if isinstance(self.balance, float) and self.balance < 0:
            raise ValueError(f"balance {self.balance} must not be negative")
        if tuning_method(self.method).wraps == "chosen experts" and self.experts is None:
            raise ValueError(
                f"method {self.method} trains chosen experts; give their file (of coterie select) as "
                "'experts'"
            )
        if self.router is not None and "router" in self.train:
            raise ValueError("'router' and 'train.router' both say what happens to routers; keep one")
        self.treatments()
        return self

    def treatments(self) -> dict[str, Treatment]:
        """The treatment of each group: what `train` says, all other groups frozen; else the method's default.

        `router` sets that group in either case.

        Errors: `ConfigError` for a group that does not exist.
        """
        method: dict[str, Treatment] = {
            str(group): how for group, how in tuning_method(self.method).treatments().items()
        }
        adapted: dict[str, Treatment] = dict.fromkeys(method, "freeze") if self.train else method
        if self.router is not None:
            adapted["router"] = "full" if self.router == "dense-grad" else self.router
        unknown = [group for group in self.train if group not in ADAPTED_GROUPS]
        if unknown:
            hint = suggest(unknown[0], ADAPTED_GROUPS)
            raise ConfigError(
                f"train: unknown group '{unknown[0]}'{hint}; groups: {', '.join(ADAPTED_GROUPS)}"
            )
        return adapted | self.train

    def adapter(self) -> AdapterConfig:
        """The adapter of this run. Errors: `ConfigError`."""
        method = tuning_method(self.method)
        quantised = "none" if not method.quantised else "int4" if self.bits == 4 else "int8"
        settings = {
            "rank": self.rank,
            "alpha": 2.0 * self.rank if self.alpha is None else self.alpha,
            "dropout": self.dropout,
            "dora": method.dora,
            "rank_rule": self.rank_rule,
            "train": self.treatments(),
            "quant": quantised,
            "seed": self.seed,
        }
        return AdapterConfig.from_dict(settings, "train")


def hold_short_names(settings: dict[str, Any]) -> None:
    """Put each short name into the settings that hold it. Errors: `ValueError` for two different values."""
    for short, (holder, key) in SHORT.items():
        if short not in settings:
            continue
        held = settings.get(holder) or {}
        held = held.model_dump(exclude_unset=True) if isinstance(held, Settings) else dict(held)
        value = settings.pop(short)
        if key in held and held[key] != value:
            raise ValueError(f"'{short}' and '{holder}.{key}' say different things; keep one")
        settings[holder] = held | {key: value}
