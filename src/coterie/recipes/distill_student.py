"""The student of a distillation: fresh, a checkpoint, or some of a checkpoint's layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from coterie.checkpoints.directory import load_model
from coterie.config import ConfigError, ModelConfig
from coterie.families import config_to_hf
from coterie.nn.transformer import Transformer
from coterie.recipes.fresh_model import build_model, check_fit
from coterie.text.tokenizer import Tokenizer


def build_student(
    settings: Mapping[str, Any], tokenizer: Tokenizer, dtype: torch.dtype, seed: int
) -> Transformer:
    """The model of `DistillConfig.student`, parameters in float32; `dtype`: of activations.

    Errors: `ConfigError` for settings that describe no model, or too small a vocabulary.
    """
    if "from" in settings:
        model = load_model(settings["from"], "float32", compute_dtype=dtype).model
        if "layers" in settings:
            model = with_layers(model, settings["layers"])
    else:
        model = build_model(settings, tokenizer, dtype, seed)
    check_fit(model.config, tokenizer, 1)
    return model


def spread_layers(num_layers: int, kept: int) -> list[int]:
    """`kept` of `num_layers` layers, evenly spread, the first and the last among them (of one: the first)."""
    return [round(at * (num_layers - 1) / max(1, kept - 1)) for at in range(kept)]


@torch.no_grad()
def with_layers(model: Transformer, kept: int) -> Transformer:
    """A model of `kept` layers of `model`, evenly spread; everything else as it is.

    Errors: `ConfigError` for more layers than there are, and where the family's published form cannot carry
    the result.
    """
    layers = spread_layers(model.config.num_layers, kept)
    if kept > model.config.num_layers:
        raise ConfigError(f"student.layers {kept}: the model has only {model.config.num_layers}")
    blocks = tuple(model.config.blocks[layer] for layer in layers)
    config: ModelConfig = model.config.model_copy(update={"blocks": blocks})
    config_to_hf(config)
    result = Transformer(config, model.compute_dtype)
    own = model.state_dict()
    for name, tensor in result.state_dict().items():
        if name.startswith("blocks."):
            _, layer, rest = name.split(".", 2)
            name = f"blocks.{layers[int(layer)]}.{rest}"
        tensor.copy_(own[name])
    return result
