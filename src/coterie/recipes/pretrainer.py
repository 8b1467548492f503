"""The trainer of a pretraining run: its model, rows, objective and optimiser from a `TrainConfig`."""

from __future__ import annotations

from coterie.config import ConfigError
from coterie.config.run import TrainConfig
from coterie.data.build import Prepared
from coterie.machine.device import choose_device, choose_dtype
from coterie.machine.processes import Processes
from coterie.recipes.fresh_model import build_model, check_fit
from coterie.recipes.run import build_trainer
from coterie.train.loop import Trainer
from coterie.train.objective import CrossEntropy


def pretrainer(config: TrainConfig, prepared: Prepared, processes: Processes | None = None) -> Trainer:
    """The trainer of a run, without callbacks. Errors: `ConfigError` for contradictory settings."""
    processes = processes or Processes.current()
    device = processes.place(choose_device(config.device))
    dtype = choose_dtype(config.dtype, device)
    model = build_model(config.model, prepared.tokenizer, dtype, config.seed, config.balance)
    check_fit(model.config, prepared.tokenizer, prepared.row_length)
    if config.mtp_weight and not model.config.num_mtp_layers:
        raise ConfigError("mtp_weight: the model has no layer for multi-token prediction; leave it at 0")
    return build_trainer(
        model.to(device),
        prepared.train_rows(),
        CrossEntropy(),
        config.optimiser,
        config.schedule,
        steps=config.num_steps(prepared.row_length),
        batch_rows=config.batch_rows,
        seed=config.seed,
        processes=processes,
        accumulate=config.accumulate,
        clip_norm=config.clip_norm,
        mtp_weight=config.mtp_weight,
        bytes_per_token=prepared.card.bytes_per_token,
        device=device,
    )
