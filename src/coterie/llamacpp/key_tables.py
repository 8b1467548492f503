"""The keys of GGUF files as data: `Key` says which config value a key of the file holds, both ways.

It is for values what a `Slot` is for tensors.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from coterie.config import (
    AttentionConfig,
    FeedForwardConfig,
    MLAConfig,
    ModelConfig,
    MoEConfig,
    RopeConfig,
    RopeScaling,
    RouterConfig,
    TemperatureConfig,
)
from coterie.config.mixers import STATE_MIXERS, StateMixer

# Tensors that the frequencies of rope are divided by: in all texts, and with LongRoPE in long and short ones.
ROPE_FACTORS, LONG_FACTORS, SHORT_FACTORS = FACTOR_TENSORS = (
    "rope_freqs.weight",
    "rope_factors_long.weight",
    "rope_factors_short.weight",
)


@dataclass(frozen=True)
class Parts:
    """The parts of a model that keys describe.

    llama.cpp has one value per model where we have one per layer: that of the first layer of its kind.
    """

    model: ModelConfig
    attention: AttentionConfig | MLAConfig
    rope: RopeConfig
    scaling: RopeScaling | None
    temperature: TemperatureConfig | None
    dense: FeedForwardConfig | None
    moe: MoEConfig | None
    router: RouterConfig | None
    mixer: StateMixer | None

    @staticmethod
    def of(config: ModelConfig) -> Parts:
        """The first layer of each kind; `rope` is the first layer's with positions."""
        attentions = config.attentions
        dense = (block.ffn for block in config.blocks if isinstance(block.ffn, FeedForwardConfig))
        moe = config.first_moe
        # Sliding layers may have another rope, which other keys state.
        ropes = sorted(
            (one for one in attentions if one.rope is not None), key=lambda one: one.mask != "causal"
        )
        rope = next((one.rope for one in ropes if one.rope is not None), RopeConfig())
        router = moe.router if moe is not None else None
        first = attentions[0]
        mixers = (block.attention for block in config.blocks if isinstance(block.attention, STATE_MIXERS))
        return Parts(
            config,
            first,
            rope,
            rope.scaling,
            first.temperature,
            next(dense, None),
            moe,
            router,
            next(mixers, None),
        )

    def value(self, place: str) -> Any:
        """The value at `part.field`."""
        part, _, name = place.partition(".")
        if part == "extra":  # kept for the round trip
            return self.model.extra.get(name)
        if place == "model.max_positions":  # fewer than were stated, where an indexer would choose among more
            return self.model.extra.get("max_position_embeddings", self.model.max_positions)
        if place == "rope.rotated":  # None: whole heads
            return self.rope.rotated or self.attention.head_dim
        if place == "model.logit_divisor":
            divisor = 1 / self.model.logit_scale
            short = float(f"{divisor:.12g}")  # 1 / (1 / 49) is not 49
            return short if 1 / short == self.model.logit_scale else divisor
        return getattr(getattr(self, part), name)


@dataclass(frozen=True)
class Key:
    """One key of the file (without the architecture's prefix) and the place of its value, `part.field`.

    `codes`: value in the config -> number in the file, where the two differ.
    """

    name: str
    place: str
    codes: Mapping[str, int] | None = None

    def write(self, parts: Parts) -> Any:
        """The value for the file."""
        value = parts.value(self.place)
        return value if self.codes is None else self.codes[value]

    def read(self, value: Any) -> Any:
        """The config value that a value of the file stands for. Errors: `KeyError` for an unknown code."""
        return value if self.codes is None else {code: ours for ours, code in self.codes.items()}[value]


def _keys(part: str, **fields: str) -> tuple[Key, ...]:
    """Keys of one part; in keywords `__` stands for the dot of a key's name."""
    return tuple(Key(name.replace("__", "."), f"{part}.{ours}") for name, ours in fields.items())


MODEL_KEYS = (
    *_keys(
        "model",
        vocab_size="vocab_size",
        context_length="max_positions",
        embedding_length="width",
        block_count="num_layers",
        attention__layer_norm_rms_epsilon="norm_eps",
    ),
    Key("rope.freq_base", "rope.theta"),
)
GROUPED_KEYS = (
    *_keys(
        "attention",
        attention__head_count="num_heads",
        attention__head_count_kv="num_kv_heads",
        attention__key_length="head_dim",
        attention__value_length="head_dim",
    ),
    Key("rope.dimension_count", "rope.rotated"),
)
LATENT_KEYS = _keys(
    "attention",
    attention__head_count="num_heads",
    attention__key_length_mla="head_dim",
    attention__value_length="kv_rank",
    attention__value_length_mla="value_dim",
    attention__kv_lora_rank="kv_rank",
    rope__dimension_count="rope_dim",
)
# By kind of the layers that keep a state.
MIXER_KEYS = {
    "short_conv": _keys("mixer", shortconv__l_cache="kernel"),
    "gated_delta": _keys(
        "mixer",
        ssm__conv_kernel="kernel",
        ssm__state_size="key_dim",
        ssm__group_count="num_key_heads",
        ssm__time_step_rank="num_value_heads",
        ssm__inner_size="output_width",
    ),
    "mamba2": _keys(
        "mixer",
        ssm__conv_kernel="kernel",
        ssm__state_size="state",
        ssm__group_count="groups",
        ssm__time_step_rank="num_heads",
        ssm__inner_size="output_width",
    ),
}
ROUTED_KEYS = _keys("router", expert_count="num_experts", expert_used_count="top_k")
EXPERT_WIDTH_KEYS = _keys("moe", expert_feed_forward_length="expert_width")
SCORED_KEYS = (
    *EXPERT_WIDTH_KEYS,
    *_keys("router", expert_weights_scale="scale", expert_weights_norm="renormalize"),
    Key("expert_gating_func", "router.score", {"softmax": 1, "sigmoid": 2}),
)
SIGMOID_KEYS = (*EXPERT_WIDTH_KEYS, SCORED_KEYS[-1])
CAPS_KEYS = (
    Key("attn_logit_softcapping", "attention.score_cap"),
    Key("final_logit_softcapping", "model.logit_cap"),
)
GRANITE_KEYS = (
    *_keys(
        "model", embedding_scale="embed_scale", residual_scale="residual_scale", logit_scale="logit_divisor"
    ),
    Key("attention.scale", "attention.softmax_scale"),
)
NEMOTRON_KEYS = (Key("attention.layer_norm_epsilon", "model.norm_eps"),)  # llama.cpp asks for both names
LATENT_EXPERT_KEYS = (*SCORED_KEYS, Key("moe_latent_size", "moe.latent_width"))
TEMPERATURE = Key("attention.temperature_scale", "temperature.scale")
ORIGINAL = "rope.scaling.original_context_length"
INDEXER_KEYS = _keys(
    "extra",
    attention__indexer__head_count="index_n_heads",
    attention__indexer__key_length="index_head_dim",
    attention__indexer__top_k="index_topk",
)
GROUP_KEYS = _keys("router", expert_group_count="num_groups", expert_group_used_count="top_groups")
SCALING_KEYS = _keys("scaling", rope__scaling__type="kind", rope__scaling__factor="factor")
YARN_KEYS = (Key(ORIGINAL, "scaling.original_max_positions"),)


def config_values(keys: Iterable[Key], found: Mapping[str, Any]) -> dict[str, Any]:
    """Config values that a file's keys state: place -> value. `found`: the file's keys without prefix."""
    return {key.place: key.read(found[key.name]) for key in keys if key.name in found}
