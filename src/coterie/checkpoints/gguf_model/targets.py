"""The architectures of llama.cpp as data: their keys, and what their fixed graphs can and cannot compute.

`Key` works both ways, like a `Slot` for tensors: it says which config value a key of the file holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from coterie.checkpoints.gguf_model.fused import GATE_UP, QKV
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
        return Parts(config, first, rope, rope.scaling, first.temperature, next(dense, None), moe, router)

    def value(self, place: str) -> Any:
        """The value at `part.field`."""
        part, _, name = place.partition(".")
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
ROUTED_KEYS = _keys("router", expert_count="num_experts", expert_used_count="top_k")
_EXPERT_WIDTH = _keys("moe", expert_feed_forward_length="expert_width")
_SCORED = (
    *_EXPERT_WIDTH,
    *_keys("router", expert_weights_scale="scale", expert_weights_norm="renormalize"),
    Key("expert_gating_func", "router.score", {"softmax": 1, "sigmoid": 2}),
)
_SIGMOID = (*_EXPERT_WIDTH, _SCORED[-1])
_CAPS = (
    Key("attn_logit_softcapping", "attention.score_cap"),
    Key("final_logit_softcapping", "model.logit_cap"),
)
_GRANITE_KEYS = (
    *_keys(
        "model", embedding_scale="embed_scale", residual_scale="residual_scale", logit_scale="logit_divisor"
    ),
    Key("attention.scale", "attention.softmax_scale"),
)
_TEMPERATURE = Key("attention.temperature_scale", "temperature.scale")
_ORIGINAL = "rope.scaling.original_context_length"
GROUP_KEYS = _keys("router", expert_group_count="num_groups", expert_group_used_count="top_groups")
SCALING_KEYS = _keys("scaling", rope__scaling__type="kind", rope__scaling__factor="factor")
YARN_KEYS = (Key(_ORIGINAL, "scaling.original_max_positions"),)


@dataclass(frozen=True)
class ChunkedAttention:
    """Attention as llama.cpp builds it for Llama 4: chunks of positions, every n-th layer global.

    Global layers have no positions, and their queries are scaled by `floor_scale` and `scale`. Queries and
    keys are normed unless the model has `unnormed_experts` experts.
    """

    window: int = 8192
    global_every: int = 4
    floor_scale: int = 8192
    scale: float = 0.1
    unnormed_experts: int = 128


@dataclass(frozen=True)
class Target:
    """One architecture of llama.cpp.

    Attention. `pairs`: rope rotates neighbours (x[2j], x[2j+1]). `factors`: reads per-frequency factors
    (llama3 scaling). `longrope`: has LongRoPE. `linear_rope`: has linear scaling of positions.
    `yarn_multiplier`: the unit in which it reads `yarn_log_multiplier` (0: it does not). `yarn_divides`: by
    that, and multiplies the softmax scale by the whole gain (`_yarn_gains`). `yarn_truncate`: whether YaRN's
    ramp is rounded in its published models, which a file cannot say. `equal_heads`: needs as many key heads
    as query heads. `full_width`: its heads fill the model's width. `latent`: has latent attention, and groups
    of experts. `sliding`: has sliding windows, every n-th layer being full. `scale_sliding`: scales the
    positions of sliding layers too. `states_window`: has a key for the window of all layers, 0 for none, and
    ignores it.
    `chunked`: the chunked attention it builds in. `no_rope_every`: each layer of this number has no
    positions. `biases`: which matrices may have one: `any`, `qkv` or `none`.

    Feed-forward. `layers`: where dense layers may be: `any`; `routed`: nowhere; `leading`: first, counted by
    a key; `stepped`: before every n-th layer, n in a key. `step_key`: states that n too. `renormalize`:
    whether it divides the chosen experts' weights by their sum (None: as the file says). `shared`: has a key
    for the number of shared experts. `shared_width_key`: states the width of the shared experts together.
    `routed_keys`: keys of models with experts beyond `ROUTED_KEYS`.

    `head`: needs the output matrix even where that is the embedding. `norm_before_ffn`: its name of the
    second norm. `fused`: matrices of a layer that it has as one tensor.
    """

    name: str
    pairs: bool = False
    factors: bool = False
    longrope: bool = False
    linear_rope: bool = True
    yarn_multiplier: float = 0.0
    yarn_divides: bool = False
    yarn_truncate: bool = True
    equal_heads: bool = False
    full_width: bool = False
    sliding: int | None = None
    scale_sliding: bool = True
    states_window: bool = False
    always_biased: bool = False
    window_pattern_key: bool = False
    local_theta: float | None = None
    wide_scale_layers: int | None = None
    extra_keys: tuple[Key, ...] = field(default=(), repr=False)
    chunked: ChunkedAttention | None = None
    no_rope_every: int | None = None
    biases: Literal["any", "qkv", "none"] = "none"
    layers: Literal["any", "routed", "leading", "stepped"] = "any"
    renormalize: bool | None = None
    shared: bool = False
    latent: bool = False
    shared_width_key: bool = False
    step_key: bool = False
    routed_keys: tuple[Key, ...] = field(default=_EXPERT_WIDTH, repr=False)
    head: bool = False
    norm_before_ffn: str = "ffn_norm"
    fused: tuple[str, ...] = ()


_LLAMA = Target("llama", pairs=True, factors=True, biases="any", renormalize=True, routed_keys=())
_GRANITE = Target(
    "granite",
    pairs=True,
    factors=True,
    biases="any",
    extra_keys=_GRANITE_KEYS,
    renormalize=True,
    routed_keys=(),
)
_GRANITE_MOE = replace(_GRANITE, name="granitemoe", layers="routed", shared_width_key=True)
_OLMO2 = Target("olmo2", full_width=True, head=True)
_DEEPSEEK = Target(
    "deepseek2",
    pairs=True,
    linear_rope=False,
    yarn_multiplier=0.1,
    layers="leading",
    shared=True,
    latent=True,
    routed_keys=_SCORED,
)
TARGETS = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "mixtral": _LLAMA,
    "qwen2": Target("qwen2", biases="qkv", full_width=True),
    "smollm3": Target("smollm3", pairs=True, no_rope_every=4),
    "seed_oss": Target("seed_oss", biases="qkv", norm_before_ffn="post_attention_norm"),
    "ernie4_5": Target("ernie4_5", pairs=True),
    "ernie4_5_moe": Target(
        "ernie4_5-moe",
        pairs=True,
        layers="leading",
        renormalize=True,
        shared=True,
        shared_width_key=True,
        step_key=True,
    ),
    "dots1": Target("dots1", equal_heads=True, layers="leading", shared=True, routed_keys=_SCORED),
    "qwen2_moe": Target(
        "qwen2moe", biases="qkv", full_width=True, layers="routed", renormalize=False, shared_width_key=True
    ),
    "glm4_moe": Target(
        "glm4moe",
        biases="qkv",
        layers="leading",
        shared=True,
        routed_keys=_SCORED,
        norm_before_ffn="post_attention_norm",
    ),
    "minimax_m2": Target("minimax-m2", layers="routed", renormalize=True, routed_keys=_SIGMOID),
    "gemma2": Target("gemma2", sliding=2, wide_scale_layers=46, linear_rope=False, extra_keys=_CAPS),
    "gemma3_text": Target(
        "gemma3",
        sliding=6,
        scale_sliding=False,
        wide_scale_layers=62,
        local_theta=10000.0,
        extra_keys=_CAPS[1:],
    ),
    "phi3": Target("phi3", full_width=True, longrope=True, fused=(QKV, GATE_UP), states_window=True),
    "glm4": Target("glm4", pairs=True, biases="qkv", fused=(GATE_UP,)),
    "granite": _GRANITE,
    "granitemoe": _GRANITE_MOE,
    "granitemoeshared": _GRANITE_MOE,
    "ministral3": Target(
        "mistral3",
        pairs=True,
        factors=True,
        yarn_multiplier=1.0,
        yarn_divides=True,
        extra_keys=(_TEMPERATURE, Key(_ORIGINAL, "temperature.floor_scale")),
    ),
    "mistral4": replace(
        _DEEPSEEK,
        name="mistral4",
        yarn_divides=True,
        extra_keys=(_TEMPERATURE, Key("attention.temperature_length", "temperature.floor_scale")),
    ),
    "olmo2": _OLMO2,
    "olmo3": replace(_OLMO2, sliding=4, scale_sliding=False, window_pattern_key=True),
    "hunyuan_v1_dense": Target("hunyuan-dense"),
    "hunyuan_v1_moe": Target(
        "hunyuan-moe", layers="routed", renormalize=True, shared=True, shared_width_key=True
    ),
    "qwen3": Target("qwen3"),
    "qwen3_moe": Target("qwen3moe", layers="routed", renormalize=True),
    "olmoe": Target("olmoe", equal_heads=True, renormalize=False, routed_keys=(), head=True),
    "deepseek_v2": _DEEPSEEK,
    "deepseek_v3": _DEEPSEEK,
    "glm4_moe_lite": _DEEPSEEK,
    "kimi_k2": _DEEPSEEK,
    "gpt_oss": Target(
        "gpt-oss",
        sliding=2,
        always_biased=True,
        window_pattern_key=True,
        biases="any",
        renormalize=False,
        head=True,
        norm_before_ffn="post_attention_norm",
        yarn_truncate=False,
    ),
    "llama4_text": Target(
        "llama4", pairs=True, factors=True, chunked=ChunkedAttention(), layers="stepped", renormalize=False
    ),
}


def keys_of(target: Target, config: ModelConfig) -> tuple[Key, ...]:
    """Every key of the file that holds a config value unchanged or by code."""
    parts = Parts.of(config)
    keys = MODEL_KEYS + (LATENT_KEYS if isinstance(parts.attention, MLAConfig) else GROUPED_KEYS)
    keys += target.extra_keys
    if parts.router is not None:
        keys += ROUTED_KEYS + target.routed_keys
        if target.latent and parts.router.top_groups != parts.router.num_groups:
            keys += GROUP_KEYS  # equal: no group is ever left out, and llama.cpp needs no groups
    kind = parts.scaling.kind if parts.scaling is not None else None
    keys += SCALING_KEYS if kind in ("linear", "yarn") else ()  # the others are tensors of factors
    keys += YARN_KEYS if kind in ("longrope", "yarn") else ()
    # Two places of one key: `architectures.describe` sees to it that they hold one value.
    return tuple({key.name: key for key in keys}.values())


def config_values(keys: Iterable[Key], found: Mapping[str, Any]) -> dict[str, Any]:
    """Config values that a file's keys state: place -> value. `found`: the file's keys without prefix."""
    return {key.place: key.read(found[key.name]) for key in keys if key.name in found}
