"""The model of a pretraining run: fresh from its settings, or a checkpoint's weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from coterie.checkpoints.directory import load_model
from coterie.config import ConfigError, ModelConfig
from coterie.families import config_from_hf, config_to_hf
from coterie.nn.transformer import Transformer
from coterie.text.tokenizer import Tokenizer


def build_model(
    settings: Mapping[str, Any],
    tokenizer: Tokenizer,
    dtype: torch.dtype,
    seed: int,
    balance: Mapping[str, float] | None = None,
) -> Transformer:
    """The model of `TrainConfig.model`: a checkpoint's weights (`from`), or fresh ones; parameters in fp32.

    `dtype`: of activations. `vocab_size` defaults to the tokenizer's. `balance` replaces fields of every MoE
    layer's `BalanceConfig`.
    Errors: `ConfigError` for settings that do not describe a model.
    """
    if "from" in settings:
        return _given_model(settings["from"], tokenizer, dtype, balance)
    config = config_from_hf({"vocab_size": tokenizer.vocab_size} | dict(settings), "model", strict=True)
    if balance:
        if not config.is_moe:
            raise ConfigError("'balance' is for mixtures of experts, and this model is dense; remove it")
        data = config.to_dict()
        for block in data["blocks"]:
            if block["ffn"]["kind"] == "moe":
                block["ffn"]["balance"] |= dict(balance)
        config = ModelConfig.from_dict(data, "balance")
    # A config that the family's published form cannot store is an error now, not after the training.
    config_to_hf(config)
    model = Transformer(config, dtype)
    model.initialise(seed)
    return model


def _given_model(
    path: str, tokenizer: Tokenizer, dtype: torch.dtype, balance: Mapping[str, float] | None
) -> Transformer:
    loaded = load_model(path, "float32", compute_dtype=dtype)
    if loaded.tokenizer is not None and loaded.tokenizer.sha256 != tokenizer.sha256:
        raise ConfigError(
            f"model.from {path}: the text was prepared with another tokenizer; "
            f"set data.tokenizer={loaded.path}"
        )
    if balance:
        raise ConfigError("'balance' does not change a model taken with 'model.from'; remove it")
    return loaded.model


def check_fit(config: ModelConfig, tokenizer: Tokenizer, row_length: int) -> None:
    """Refuse a vocabulary or a row length larger than the model's. Errors: `ConfigError`."""
    if tokenizer.vocab_size > config.vocab_size:
        raise ConfigError(
            f"the tokenizer has {tokenizer.vocab_size} tokens and the model's vocab_size is "
            f"{config.vocab_size}; use the model's own tokenizer (data.tokenizer) or a larger vocab_size"
        )
    if row_length > config.max_positions:
        raise ConfigError(
            f"data.row_length {row_length} is longer than the model's max_position_embeddings "
            f"{config.max_positions}; shorten the rows or raise it"
        )
