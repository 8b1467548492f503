"""The tuning methods: one record holds all that settings, recipe and planner need to know of a method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from coterie.config.adapter import ADAPTED_GROUPS, AdaptedGroup, Treatment
from coterie.config.base import suggest
from coterie.config.errors import ConfigError

Wrap = Literal["factors", "chosen experts", "weights"]
ResultKind = Literal["adapter", "patch", "model"]
_RESULTS: dict[Wrap, ResultKind] = {"factors": "adapter", "chosen experts": "patch", "weights": "model"}
_FACTORS: Mapping[AdaptedGroup, Treatment] = dict.fromkeys(
    ("attention", "experts", "shared", "dense"), "lora"
)


@dataclass(frozen=True)
class TuningMethod:
    """How a model is tuned.

    `trains`: the treatment of each group of parameters; groups that are not named stay frozen. `wraps`: what
    the model is changed into. `factors` inserts an adapter (PEFT's form, groups trained in full included);
    `chosen experts` trains slices of the expert weights; `weights` trains the parameters themselves. `dora`,
    `quantised`: forms of the adapter. `float32`: weights are loaded in 32 bits, because the weights are what
    is trained. `moe_only`: the method trains nothing in a dense model.

    `learning_rates`: the defaults for models below 50 million, below 1 billion, and more parameters. `held`:
    for the planner, the memory taken for activations divided by their size, including what the C library
    keeps of freed temporaries (fitted to the first six processes of bench/plan_accuracy.py, on a CPU with
    glibc).
    """

    trains: Mapping[AdaptedGroup, Treatment]
    wraps: Wrap
    learning_rates: tuple[float, float, float]
    held: float
    dora: bool = False
    quantised: bool = False
    float32: bool = False
    moe_only: bool = False

    @property
    def result(self) -> ResultKind:
        """What a run writes."""
        return _RESULTS[self.wraps]

    @property
    def has_factors(self) -> bool:
        """Whether low-rank factors are trained."""
        return "lora" in self.trains.values()

    @property
    def adds_values(self) -> bool:
        """Whether the trained values are kept next to the base's weights, in 32 bits."""
        return self.has_factors or self.wraps == "chosen experts"

    def treatments(self) -> dict[AdaptedGroup, Treatment]:
        """The treatment of every group."""
        frozen: dict[AdaptedGroup, Treatment] = dict.fromkeys(ADAPTED_GROUPS, "freeze")
        return frozen | dict(self.trains)


_LORA_RATES, _WEIGHT_RATES = (3e-3, 5e-4, 2e-4), (5e-4, 5e-5, 1e-5)

METHODS: dict[str, TuningMethod] = {
    "lora": TuningMethod(_FACTORS, "factors", _LORA_RATES, held=1.75),
    "qlora": TuningMethod(_FACTORS, "factors", _LORA_RATES, held=1.75, quantised=True),
    "dora": TuningMethod(_FACTORS, "factors", _LORA_RATES, held=1.75, dora=True),
    "full": TuningMethod(
        dict.fromkeys(ADAPTED_GROUPS, "full"), "weights", _WEIGHT_RATES, held=1.0, float32=True
    ),
    "esft": TuningMethod(
        {"experts": "full"}, "chosen experts", _WEIGHT_RATES, held=1.3, float32=True, moe_only=True
    ),
    "router": TuningMethod({"router": "full"}, "factors", _WEIGHT_RATES, held=1.3, moe_only=True),
}

CONTINUED_RATES = (2e-4, 5e-5, 1e-5)
"""Learning rates of `coterie train` from a given model, by size as `TuningMethod.learning_rates`.

Far below those of a fresh model: its optimiser's moments start from zero, so each early step moves every
weight by about the whole rate, and a small batch of new text then undoes what was learnt from many. The first
two are measured (bench/continued_rates.py): they teach new text more than they take from other text.
"""


def rate_for_size(rates: tuple[float, float, float], num_parameters: int) -> float:
    """The rate for models below 50 million, below 1 billion, or more parameters."""
    return rates[0 if num_parameters < 5e7 else 1 if num_parameters < 1e9 else 2]


def tuning_method(name: str) -> TuningMethod:
    """The method called `name`. Errors: `ConfigError` with the closest known name."""
    if name not in METHODS:
        raise ConfigError(f"unknown method '{name}'{suggest(name, METHODS)}; choose {', '.join(METHODS)}")
    return METHODS[name]
