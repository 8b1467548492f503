"""The trainer of a pretraining run: its model, rows, objective and optimiser from a `TrainConfig`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from coterie.config import ConfigError
from coterie.config.methods import CONTINUED_RATES, rate_for_size
from coterie.config.run import OptimiserConfig, TrainConfig
from coterie.data.build import Prepared
from coterie.machine.device import choose_device, choose_dtype
from coterie.machine.processes import Processes
from coterie.nn.transformer import Transformer
from coterie.recipes.fresh_model import build_model, check_fit
from coterie.recipes.run import build_trainer
from coterie.train.codistil import SharedForward
from coterie.train.loop import Trainer
from coterie.train.objective import CrossEntropy, Objective

FRESH_RATE = 1e-3
"""Learning rate of a fresh model for which the settings give none."""


def pretrainer(config: TrainConfig, prepared: Prepared, processes: Processes | None = None) -> Trainer:
    """The trainer of a run, without callbacks. Errors: `ConfigError` for contradictory settings."""
    objective = SharedForward() if config.codistil else CrossEntropy()
    return trainer_of(
        config,
        prepared,
        processes or Processes.current(),
        config.model,
        config.balance,
        config.optimiser,
        lambda _: objective,
        mtp_weight=config.mtp_weight,
        bytes_per_token=prepared.card.bytes_per_token,
    )


def trainer_of(
    config: TrainConfig,
    prepared: Prepared,
    processes: Processes,
    model: Mapping[str, Any],
    balance: Mapping[str, float],
    optimiser: OptimiserConfig,
    objective: Callable[[Transformer], Objective],
    *,
    mtp_weight: float = 0.0,
    bytes_per_token: float | None = None,
) -> Trainer:
    """The trainer of one model of a run: of the model that the run is for, or of a student.

    `model`, `balance`: as in `TrainConfig`. Errors: `ConfigError` for contradictory settings.
    """
    device = processes.place(choose_device(config.device))
    built = build_model(model, prepared.tokenizer, choose_dtype(config.dtype, device), config.seed, balance)
    check_fit(built.config, prepared.tokenizer, prepared.row_length)
    if mtp_weight and not built.config.num_mtp_layers:
        raise ConfigError("mtp_weight: the model has no layer for multi-token prediction; leave it at 0")
    num_parameters = sum(parameter.numel() for parameter in built.parameters())
    lr = rate_for_size(CONTINUED_RATES, num_parameters) if "from" in model else FRESH_RATE
    return build_trainer(
        built.to(device),
        prepared.train_rows(),
        objective(built),
        optimiser.resolved(lr),
        config.schedule,
        steps=config.num_steps(prepared.row_length),
        batch_rows=config.batch_rows,
        seed=config.seed,
        processes=processes,
        accumulate=config.accumulate,
        clip_norm=config.clip_norm,
        recompute=config.recompute,
        mtp_weight=mtp_weight,
        bytes_per_token=bytes_per_token,
        device=device,
    )


def stated_training(config: TrainConfig, trainer: Trainer, model: Transformer) -> dict[str, Any]:
    """The settings of a run with the choices that they leave to it: rate, precision, device."""
    made = {
        "optimiser": config.optimiser.model_copy(update={"lr": trainer.lr}),
        "dtype": str(model.compute_dtype).removeprefix("torch."),
        "device": str(trainer.device),
    }
    return config.model_copy(update=made).to_dict()
