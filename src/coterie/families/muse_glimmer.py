"""Muse Glimmer (`muse_glimmer` with its image encoder, `muse_glimmer_text` inside).

Queries and keys are normed without a weight, a gate multiplies the result of attention, and full layers have
no positions. The mathematics is in docs/design/families.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coterie.config import ConfigError, ModelConfig
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
from coterie.families.reader import Reader
from coterie.families.rope import read_rope
from coterie.families.slots import SANDWICH, dense_model_slots
from coterie.families.wrapper import wrapper

_KEYS = frozenset(
    "hidden_activation attention_bias sliding_window layer_types layer_rope_theta qk_scale_factor "
    "output_multiplier final_logit_softcapping post_norm_eps".split()
)


def _read(data: Mapping[str, Any], where: str) -> ModelConfig:
    reader = Reader({"sliding_window": 2048, **data}, where)
    reader.expect("hidden_activation", "silu", None)
    reader.expect("attention_bias", False, None)
    num_layers = reader.get("num_hidden_layers")
    full = [(num_layers - 1 - index) % 4 == 0 for index in range(num_layers)]
    types = read_layer_types(reader, lambda i: "full_attention" if full[i] else "sliding_attention")
    rope = read_rope(reader, 10000.0)
    thetas = reader.get("layer_rope_theta", default=None)
    if thetas is None:
        thetas = [0 if whole else rope.theta for whole in full]
    if len(thetas) != num_layers or set(thetas) - {0, rope.theta}:
        # transformers rotates every layer by the model's theta, whatever number stands here.
        raise ConfigError(
            f"{where}: 'layer_rope_theta' needs {num_layers} entries, each 0 or the model's theta "
            f"{rope.theta:g}"
        )
    attentions = [
        read_attention(
            reader,
            rope=rope if theta else None,
            qk_norm="weightless_before",
            query_factor=reader.get("qk_scale_factor", default=3.87),
            gate="full",
            **mask,
        )
        for theta, mask in zip(thetas, layer_masks(reader, types), strict=True)
    ]
    return read_dense_layers(
        reader,
        attentions,
        1e-5,
        False,
        block={"norms": "sandwich", "post_norm_eps": reader.get("post_norm_eps", default=1e-8)},
        norm_plus_one=True,
        final_norm_plus_one=False,
        norm_rounding="after_weight",
        embed_norm=True,
        logit_scale=reader.get("output_multiplier", default=0.19611613513818404),
        logit_cap=reader.get("final_logit_softcapping", default=20.0),
    )


def _write(config: ModelConfig) -> dict[str, Any]:
    data, attention, _ = write_dense(config)
    attentions = [grouped_query(config, block) for block in config.blocks]
    windows = [one.window for one in attentions if one.window is not None]
    return data | {
        "hidden_activation": data["hidden_act"],
        "attention_bias": False,
        "sliding_window": windows[0] if windows else config.extra.get("sliding_window", 2048),
        "layer_types": layer_types(config),
        "layer_rope_theta": [0 if one.rope is None else one.rope.theta for one in attentions],
        "qk_scale_factor": attention.query_factor,
        "output_multiplier": config.logit_scale,
        "final_logit_softcapping": config.logit_cap,
        "post_norm_eps": config.blocks[0].post_norm_eps,
    }


MUSE_GLIMMER_TEXT = Family(
    "muse_glimmer_text",
    "MuseGlimmerForCausalLM",
    _read,
    _write,
    lambda config: dense_model_slots(config, layer=SANDWICH),
    (COMMON_KEYS - {"hidden_act"}) | _KEYS,
    unrouted="its mixture (muse_spark) is not supported",
    examples="the text model of Muse Glimmer 30B",
)
MUSE_GLIMMER = wrapper(
    "muse_glimmer",
    "MuseGlimmerForConditionalGeneration",
    (MUSE_GLIMMER_TEXT,),
    ("model.vision_tower.", "model.vision_adapter.", "model.vision_projection."),
    layout="inside",
    examples="Muse Glimmer 30B",
)
