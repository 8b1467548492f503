"""Gemma 2 (`gemma2`) and Gemma 3 (`gemma3_text`, and `gemma3` around it with an image encoder).

Both have norms before and after each part with 1 + weight, scaled embeddings, GeGLU and sliding layers.
Gemma 2 (arXiv 2408.00118) caps scores. Gemma 3 (arXiv 2503.19786) norms queries and keys instead, and its
sliding layers have other positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coterie.config import ConfigError, ModelConfig, RopeConfig
from coterie.families.base import (
    COMMON_KEYS,
    Family,
    grouped_query,
    layer_masks,
    layer_types,
    read_attention,
    read_dense_layers,
    read_layer_types,
    write_dense,
)
from coterie.families.mapping import Slot
from coterie.families.reader import Reader
from coterie.families.rope import layer_ropes_to_hf, read_layer_ropes, read_rope
from coterie.families.slots import SANDWICH, dense_model_slots
from coterie.families.wrapper import wrapper

_KEYS = (COMMON_KEYS - {"hidden_act"}) | frozenset(
    "hidden_activation attention_bias query_pre_attn_scalar sliding_window layer_types "
    "final_logit_softcapping attn_logit_softcapping".split()
)
# What transformers fills in: Gemma 3's files leave out what is as in its smallest model with images.
_UNSAID_2 = {
    "sliding_window": 4096,
    "query_pre_attn_scalar": 256,
    "head_dim": 256,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
}
_UNSAID_3 = {
    "vocab_size": 262208,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 131072,
    "sliding_window": 4096,
    "query_pre_attn_scalar": 256,
}
_FULL, _SLIDING = "full_attention", "sliding_attention"
_GEMMA3_ROPES = {_FULL: {"rope_theta": 1e6}, _SLIDING: {"rope_theta": 1e4}}
_GEMMA3_THETAS = {_FULL: "rope_theta", _SLIDING: "rope_local_base_freq"}


def _read_2(data: Mapping[str, Any], where: str) -> ModelConfig:
    reader = Reader({**_UNSAID_2, **data}, where)
    ropes = dict.fromkeys((_FULL, _SLIDING), read_rope(reader, 10000.0))
    return _read(reader, 2, ropes, "none")


def _read_3(data: Mapping[str, Any], where: str) -> ModelConfig:
    reader = Reader({**_UNSAID_3, **data}, where)
    ropes = read_layer_ropes(reader, _GEMMA3_ROPES, _GEMMA3_THETAS)
    return _read(reader, data.get("sliding_window_pattern", 6), ropes, "head")


def _read(reader: Reader, pattern: Any, ropes: Mapping[str, RopeConfig], qk_norm: str) -> ModelConfig:
    """`pattern`: without a list of types, the last of `pattern` layers has full attention."""
    reader.expect("hidden_activation", "gelu_pytorch_tanh", None)
    reader.used.add("hidden_act")  # transformers reads the other name alone
    if type(pattern) is not int or pattern < 1:
        said = f"'sliding_window_pattern' is {pattern!r}"
        raise ConfigError(f"{reader.where}: {said}; give a whole number from 1 up")
    types = read_layer_types(reader, lambda index: _SLIDING if (index + 1) % pattern else _FULL)
    bias = reader.flag("attention_bias", False)
    common = {
        "scale": _scale(reader),
        "score_cap": reader.get("attn_logit_softcapping", default=None),
        "qk_norm": qk_norm,
        "qkv_bias": bias,
        "output_bias": bias,
    }
    attentions = [
        read_attention(reader, rope=ropes[kind], **common, **mask)
        for kind, mask in zip(types, layer_masks(reader, types), strict=True)
    ]
    return read_dense_layers(
        reader,
        attentions,
        1e-6,
        True,
        activation="gelu_tanh",
        block={"norms": "sandwich"},
        norm_plus_one=True,
        norm_rounding="after_weight",
        embed_scale=reader.get("hidden_size") ** 0.5,
        logit_cap=reader.get("final_logit_softcapping", default=None),
    )


def _scale(reader: Reader) -> float:
    scalar = reader.get("query_pre_attn_scalar")
    if not scalar > 0:
        raise ConfigError(f"{reader.where}: 'query_pre_attn_scalar' is {scalar!r}; give a number above 0")
    return float(scalar**-0.5)


def _write_2(config: ModelConfig) -> dict[str, Any]:
    data, attention, _ = write_dense(config)
    attentions = [grouped_query(config, block) for block in config.blocks]
    windows = [one.window for one in attentions if one.window is not None]
    window = windows[0] if windows else config.extra.get("sliding_window", 4096)
    scalar = attention.softmax_scale**-2
    return data | {
        "hidden_activation": data["hidden_act"],
        "attention_bias": attention.qkv_bias,
        "query_pre_attn_scalar": round(scalar) if round(scalar) ** -0.5 == attention.scale else scalar,
        "attn_logit_softcapping": attention.score_cap,
        "final_logit_softcapping": config.logit_cap,
        "sliding_window": window,
        "layer_types": layer_types(config),
    }


def _write_3(config: ModelConfig) -> dict[str, Any]:
    ropes = {kind: rope for kind, rope in _ropes(config).items() if rope is not None}
    width = grouped_query(config, config.blocks[0]).head_dim
    return _write_2(config) | layer_ropes_to_hf(ropes, dict.fromkeys(ropes, width), _GEMMA3_THETAS)


def _ropes(config: ModelConfig) -> dict[str, Any]:
    """The positions of each layer type; what a type without layers would have where there is none."""
    found: dict[str, Any] = {}
    for kind, block in zip(layer_types(config), config.blocks, strict=True):
        found.setdefault(kind, grouped_query(config, block).rope)
    return found


def _slots(config: ModelConfig) -> list[Slot]:
    return dense_model_slots(config, layer=SANDWICH)


GEMMA2 = Family(
    "gemma2",
    "Gemma2ForCausalLM",
    _read_2,
    _write_2,
    _slots,
    _KEYS,
    unrouted="no mixture with its norms is supported",
    examples="Gemma 2 2B, 9B and 27B",
)
GEMMA3_TEXT = Family(
    "gemma3_text",
    "Gemma3ForCausalLM",
    _read_3,
    _write_3,
    _slots,
    _KEYS | {"rope_local_base_freq"},
    unrouted="no mixture with its norms is supported",
    examples="Gemma 3 270M and 1B, FunctionGemma",
)
GEMMA3 = wrapper(
    "gemma3",
    "Gemma3ForConditionalGeneration",
    (GEMMA3_TEXT,),
    ("vision_tower.", "multi_modal_projector.", "model.vision_tower.", "model.multi_modal_projector."),
    examples="Gemma 3 4B, 12B and 27B, MedGemma",
)
