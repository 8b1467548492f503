"""The trainer of a pretraining run: its model, rows, objective and optimiser from a `TrainConfig`."""

from __future__ import annotations

from typing import Any

from coterie.config import ConfigError
from coterie.config.methods import CONTINUED_RATES, rate_for_size
from coterie.config.run import TrainConfig
from coterie.data.build import Prepared
from coterie.machine.device import choose_device, choose_dtype
from coterie.machine.processes import Processes
from coterie.nn.transformer import Transformer
from coterie.recipes.fresh_model import build_model, check_fit
from coterie.recipes.run import build_trainer
from coterie.train.loop import Trainer
from coterie.train.objective import CrossEntropy

FRESH_RATE = 1e-3
"""Learning rate of a fresh model for which the settings give none."""


def pretrainer(config: TrainConfig, prepared: Prepared, processes: Processes | None = None) -> Trainer:
    """The trainer of a run, without callbacks. Errors: `ConfigError` for contradictory settings."""
    processes = processes or Processes.current()
    device = processes.place(choose_device(config.device))
    dtype = choose_dtype(config.dtype, device)
    model = build_model(config.model, prepared.tokenizer, dtype, config.seed, config.balance)
    check_fit(model.config, prepared.tokenizer, prepared.row_length)
    if config.mtp_weight and not model.config.num_mtp_layers:
        raise ConfigError("mtp_weight: the model has no layer for multi-token prediction; leave it at 0")
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    lr = rate_for_size(CONTINUED_RATES, num_parameters) if "from" in config.model else FRESH_RATE
    return build_trainer(
        model.to(device),
        prepared.train_rows(),
        CrossEntropy(),
        config.optimiser.resolved(lr),
        config.schedule,
        steps=config.num_steps(prepared.row_length),
        batch_rows=config.batch_rows,
        seed=config.seed,
        processes=processes,
        accumulate=config.accumulate,
        clip_norm=config.clip_norm,
        recompute=config.recompute,
        mtp_weight=config.mtp_weight,
        bytes_per_token=prepared.card.bytes_per_token,
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
