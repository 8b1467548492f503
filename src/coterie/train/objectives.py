"""The objectives by name. `auto` is not one of them: `tune` chooses by the kind of the data."""

from __future__ import annotations

from coterie.config import ConfigError, suggest
from coterie.config.methods import rate_for_size, tuning_method
from coterie.train.distil import Distillation
from coterie.train.objective import CrossEntropy, Objective
from coterie.train.policy_gradient import PolicyGradient
from coterie.train.preference import DPO, IPO, KTO, ORPO, NormalisedDPO

OBJECTIVES: dict[str, type[Objective]] = {
    "sft": CrossEntropy,
    "pretrain": CrossEntropy,
    "dpo": DPO,
    "ipo": IPO,
    "dpo-norm": NormalisedDPO,
    "orpo": ORPO,
    "kto": KTO,
    "distil": Distillation,
    "reinforce": PolicyGradient,
}


def objective_class(name: str) -> type[Objective]:
    """The class of the objective called `name`. Errors: `ConfigError` with the closest known name."""
    if name not in OBJECTIVES:
        known = ", ".join(["auto", *OBJECTIVES])
        raise ConfigError(f"objective '{name}' does not exist{suggest(name, OBJECTIVES)}; choose {known}")
    return OBJECTIVES[name]


def default_lr(method: str, objective: str, num_parameters: int) -> float:
    """The learning rate of a tuning run that names none.

    It is smaller for larger models, for methods that train whole weights, and for preferences.
    Errors: `ConfigError` for an unknown method or objective.
    """
    lr = rate_for_size(tuning_method(method).learning_rates, num_parameters)
    return lr * objective_class(objective).lr_factor
