"""Parameters of what surrounds a text model: image encoders and their projectors, carried and never run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from coterie.config import ConfigError, ModelConfig


def encoder_parameters(config: ModelConfig) -> int | None:
    """Parameters of the image encoder and its projector.

    0 for a model without one, None for one that is not known here. Source: docs/design/families.md for
    Llama 4; for the others the modules of transformers, which the tests count.
    Errors: `ConfigError` for a `vision_config` that lacks a key.
    """
    vision = config.extra.get("vision_config")
    if not isinstance(vision, Mapping):
        return 0
    count = _COUNTS.get(config.family)
    if count is None:
        return None
    try:
        return count(vision, config)
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"vision_config: {error} is missing or not a number; give the config of the whole model"
        ) from None


def _numbers(vision: Mapping[str, Any], *keys: str) -> tuple[int, ...]:
    return tuple(int(vision[key]) for key in keys)


def _llama4(vision: Mapping[str, Any], config: ModelConfig) -> int:
    width, inner, layers = _numbers(vision, "hidden_size", "intermediate_size", "num_hidden_layers")
    channels, size, patch = _numbers(vision, "num_channels", "image_size", "patch_size")
    middle, last, output = _numbers(
        vision, "projector_input_dim", "projector_output_dim", "vision_output_dim"
    )
    positions = (size // patch) ** 2 + 1
    layer = 4 * (width * width + width) + 2 * width * inner + inner + width + 4 * width
    encoder = channels * patch**2 * width + width + positions * width + 4 * width + layers * layer
    return encoder + inner * middle + middle * last + output * config.width


def _pixtral(vision: Mapping[str, Any], config: ModelConfig) -> int:
    width, inner, layers = _numbers(vision, "hidden_size", "intermediate_size", "num_hidden_layers")
    patch = _numbers({"num_channels": 3} | dict(vision), "num_channels", "patch_size")
    encoder = patch[0] * patch[1] ** 2 * width + width
    encoder += layers * (4 * width * width + 3 * width * inner + 2 * width)
    merge = int(config.extra.get("spatial_merge_size", 2))
    biases = 2 * config.width if config.extra.get("multimodal_projector_bias") else 0
    projector = width + (width * merge) ** 2 + width * config.width + config.width**2 + biases
    return encoder + projector


def _moonvit(vision: Mapping[str, Any], config: ModelConfig) -> int:
    """Kimi's encoder, under the names of the releases or of transformers."""
    names = {"hidden_size": "vt_hidden_size", "intermediate_size": "vt_intermediate_size"}
    names |= {"num_hidden_layers": "vt_num_hidden_layers", "pos_emb_height": "init_pos_emb_height"}
    names |= {"pos_emb_width": "init_pos_emb_width"}
    found = {key: vision.get(key, vision.get(other)) for key, other in names.items()}
    width, inner, layers, height, across = _numbers(found, *names)
    patch, (down, right) = int(vision["patch_size"]), vision.get("merge_kernel_size", (2, 2))
    encoder = 3 * patch**2 * width + width + height * across * width + 2 * width
    encoder += layers * (4 * (width * width + width) + 2 * width * inner + inner + width + 4 * width)
    merged = width * down * right
    return encoder + 2 * width + merged * merged + merged + merged * config.width + config.width


def _qwen3_5(vision: Mapping[str, Any], config: ModelConfig) -> int:
    """The encoder of Qwen3.5; every layer has biases and norms with them."""
    usual = {"in_channels": 3, "temporal_patch_size": 2, "spatial_merge_size": 2}
    width, inner, layers = _numbers(vision, "hidden_size", "intermediate_size", "depth")
    patch, positions, last = _numbers(vision, "patch_size", "num_position_embeddings", "out_hidden_size")
    channels, frames, merge = _numbers(usual | dict(vision), *usual)
    encoder = channels * frames * patch**2 * width + width + positions * width
    layer = 4 * (width * width + width) + 2 * width * inner + inner + width + 4 * width
    merged = width * merge**2
    return encoder + layers * layer + 2 * width + merged * merged + merged + merged * last + last


_COUNTS: dict[str, Callable[[Mapping[str, Any], ModelConfig], int]] = {
    "llama4": _llama4,
    "mistral3": _pixtral,
    "kimi_k25": _moonvit,
    "qwen3_5": _qwen3_5,
    "qwen3_5_moe": _qwen3_5,
}
