"""The architectures of llama.cpp as data: their keys, and what their fixed graphs can and cannot compute."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from coterie.config import (
    MLAConfig,
    ModelConfig,
)
from coterie.llamacpp.fused import EXPERTS, GATE_UP, QKV
from coterie.llamacpp.key_tables import (
    CAPS_KEYS,
    EXPERT_WIDTH_KEYS,
    GRANITE_KEYS,
    GROUP_KEYS,
    GROUPED_KEYS,
    INDEXER_KEYS,
    LATENT_EXPERT_KEYS,
    LATENT_KEYS,
    MIXER_KEYS,
    MODEL_KEYS,
    NEMOTRON_KEYS,
    ORIGINAL,
    ROUTED_KEYS,
    SCALING_KEYS,
    SCORED_KEYS,
    SIGMOID_KEYS,
    TEMPERATURE,
    YARN_KEYS,
    Key,
    Parts,
)
from coterie.llamacpp.mixers import MixedLayers


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
    of experts. `indexer`: which layers have one that chooses keys: `some`, as a key says layer by layer, or
    `all`. `sliding`: has sliding windows, every n-th layer being full. `scale_sliding`: scales the
    positions of sliding layers too. `states_window`: has a key for the window of all layers, 0 for none, and
    ignores it.
    `chunked`: the chunked attention it builds in. `no_rope_every`: each layer of this number has no
    positions. `biases`: which matrices may have one: `any`, `qkv` or `none`.

    Feed-forward. `layers`: where dense layers may be: `any`; `routed`: nowhere; `leading`: first, counted by
    a key; `stepped`: before every n-th layer, n in a key. `step_key`: states that n too. `renormalize`:
    whether it divides the chosen experts' weights by their sum (None: as the file says). `shared`: has a key
    for the number of shared experts. `selects`: always has selection biases, and scales no weights.
    `shared_width_key`: states the width of the shared experts together.
    `routed_keys`: keys of models with experts beyond `ROUTED_KEYS`.

    `lone_parts`: each layer is a mixer or a feed-forward alone, and the widths of feed-forwards are stated
    layer by layer, 0 for none; they have no gate and square their ReLU.

    `mixed`: has layers that keep a state. `stateless`: what a model without such a layer is there instead,
    dense and with experts. `routed`: what a model with experts is there instead. `head`: needs the output
    matrix even where that is the embedding.
    `norm_before_ffn`, `last_norm`: its names of the second norm of a layer, and of the norm before the head.
    `fused`: matrices of a layer that it has as one tensor.

    `usual`: values that it takes where a file lacks a key, because it cannot do without. `by_kind`: has keys
    for sliding layers apart from full ones (`llamacpp.kinds`). `names`: what it calls parts of a layer
    that others call otherwise. `pieces`: its kind of SentencePiece-like tokenizers.
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
    selects: bool = False
    latent: bool = False
    indexer: Literal["all", "some"] | None = None
    shared_width_key: bool = False
    step_key: bool = False
    routed_keys: tuple[Key, ...] = field(default=EXPERT_WIDTH_KEYS, repr=False)
    usual: Mapping[str, float] = field(default_factory=dict, repr=False)
    by_kind: bool = False
    names: Mapping[str, str] = field(default_factory=dict, repr=False)
    pieces: Literal["llama", "gemma4"] = "llama"
    head: bool = False
    norm_before_ffn: str = "ffn_norm"
    fused: tuple[str, ...] = ()
    last_norm: str = "output_norm"
    lone_parts: bool = False
    mixed: MixedLayers | None = None
    stateless: tuple[Target, Target] | None = field(default=None, repr=False)
    routed: Target | None = field(default=None, repr=False)

    @property
    def attention_keys(self) -> tuple[Key, ...]:
        """Keys of grouped-query attention that hold one value for all layers."""
        if self.by_kind:
            return GROUPED_KEYS[:1]
        if self.mixed is None or not self.mixed.counted:
            return GROUPED_KEYS
        return tuple(key for key in GROUPED_KEYS if key.place != "attention.num_kv_heads")


_LLAMA = Target("llama", pairs=True, factors=True, biases="any", renormalize=True, routed_keys=())
_GRANITE = Target(
    "granite",
    pairs=True,
    factors=True,
    biases="any",
    extra_keys=GRANITE_KEYS,
    renormalize=True,
    routed_keys=(),
)
_GRANITE_MOE = replace(_GRANITE, name="granitemoe", layers="routed", shared_width_key=True)
_QWEN35 = Target(
    "qwen35",
    norm_before_ffn="post_attention_norm",
    mixed=MixedLayers("gated_delta", gated=True, tiled=True, sections=True),
)
_QWEN35_MOE = replace(_QWEN35, name="qwen35moe", layers="routed", renormalize=True, shared_width_key=True)
_LFM2 = Target(
    "lfm2", full_width=True, last_norm="token_embd_norm", mixed=MixedLayers("short_conv", counted=True)
)
_OLMO2 = Target("olmo2", full_width=True, head=True)
_DEEPSEEK = Target(
    "deepseek2",
    pairs=True,
    linear_rope=False,
    yarn_multiplier=0.1,
    layers="leading",
    shared=True,
    latent=True,
    routed_keys=SCORED_KEYS,
)
_INDEXED = replace(_DEEPSEEK, name="deepseek32", indexer="all", extra_keys=INDEXER_KEYS)
_GEMMA4 = Target(
    "gemma4",
    by_kind=True,
    layers="routed",
    renormalize=True,
    fused=(EXPERTS,),
    pieces="gemma4",
    # Its experts stand next to a feed-forward that has the names of a dense layer's.
    names={f"ffn.shared.{part}.weight": f"ffn_{part}.weight" for part in ("gate", "up", "down")},
)
_NEMOTRON = Target(
    "nemotron_h",
    no_rope_every=1,
    biases="any",
    layers="routed",
    shared_width_key=True,
    extra_keys=NEMOTRON_KEYS,
    routed_keys=LATENT_EXPERT_KEYS,
    norm_before_ffn="attn_norm",
    lone_parts=True,
    mixed=MixedLayers("mamba2", counted=True, any_width=True, usual_step=0.001),
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
    "dots1": Target("dots1", equal_heads=True, layers="leading", shared=True, routed_keys=SCORED_KEYS),
    "qwen2_moe": Target(
        "qwen2moe", biases="qkv", full_width=True, layers="routed", renormalize=False, shared_width_key=True
    ),
    "glm4_moe": Target(
        "glm4moe",
        biases="qkv",
        layers="leading",
        shared=True,
        routed_keys=SCORED_KEYS,
        norm_before_ffn="post_attention_norm",
    ),
    "minimax_m2": Target("minimax-m2", layers="routed", renormalize=True, routed_keys=SIGMOID_KEYS),
    "gemma2": Target(
        "gemma2",
        sliding=2,
        wide_scale_layers=46,
        linear_rope=False,
        extra_keys=CAPS_KEYS,
        usual={"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
    ),
    "gemma3_text": Target(
        "gemma3",
        sliding=6,
        scale_sliding=False,
        wide_scale_layers=62,
        local_theta=10000.0,
        extra_keys=CAPS_KEYS[1:],
    ),
    "phi3": Target("phi3", full_width=True, longrope=True, fused=(QKV, GATE_UP), states_window=True),
    "glm": Target("chatglm", pairs=True, biases="qkv", full_width=True, fused=(GATE_UP,)),
    "glm4": Target("glm4", pairs=True, biases="qkv", fused=(GATE_UP,)),
    "granite": _GRANITE,
    "granitemoe": _GRANITE_MOE,
    "granitemoeshared": _GRANITE_MOE,
    "granitemoehybrid": replace(
        _GRANITE_MOE,
        name="granitehybrid",
        layers="any",
        mixed=MixedLayers("mamba2", counted=True, rope_switch=True),
        stateless=(_GRANITE, _GRANITE_MOE),
    ),
    "lfm2": _LFM2,
    "lfm2_moe": replace(
        _LFM2, name="lfm2moe", layers="leading", renormalize=True, selects=True, routed_keys=SIGMOID_KEYS
    ),
    "nemotron_h": replace(_NEMOTRON, routed=replace(_NEMOTRON, name="nemotron_h_moe")),
    "qwen3_5_text": _QWEN35,
    "qwen3_5_moe_text": _QWEN35_MOE,
    "qwen3_next": replace(
        _QWEN35_MOE, name="qwen3next", mixed=MixedLayers("gated_delta", gated=True, pair=True)
    ),
    "ministral3": Target(
        "mistral3",
        pairs=True,
        factors=True,
        yarn_multiplier=1.0,
        yarn_divides=True,
        extra_keys=(TEMPERATURE, Key(ORIGINAL, "temperature.floor_scale")),
    ),
    "mistral4": replace(
        _DEEPSEEK,
        name="mistral4",
        yarn_divides=True,
        extra_keys=(TEMPERATURE, Key("attention.temperature_length", "temperature.floor_scale")),
    ),
    "olmo2": _OLMO2,
    "olmo3": replace(_OLMO2, sliding=4, scale_sliding=False, window_pattern_key=True),
    "hunyuan_v1_dense": Target("hunyuan-dense"),
    "hunyuan_v1_moe": Target(
        "hunyuan-moe", layers="routed", renormalize=True, shared=True, shared_width_key=True
    ),
    "gemma4_text": _GEMMA4,
    "gemma4_unified_text": _GEMMA4,
    "qwen3": Target("qwen3"),
    "qwen3_moe": Target("qwen3moe", layers="routed", renormalize=True),
    "olmoe": Target("olmoe", equal_heads=True, renormalize=False, routed_keys=(), head=True),
    "deepseek_v2": _DEEPSEEK,
    "deepseek_v3": _DEEPSEEK,
    "deepseek_v32": _INDEXED,
    "glm_moe_dsa": replace(_INDEXED, name="glm-dsa", indexer="some", yarn_multiplier=0.0),
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


def target_of(config: ModelConfig) -> Target:
    """The architecture of a model. Errors: `KeyError` for a family without one."""
    target = TARGETS[config.family]
    if target.routed is not None and config.is_moe:
        return target.routed
    if target.stateless is None or len(config.attentions) < config.num_layers:
        return target
    return target.stateless[1 if config.is_moe else 0]


def keys_of(target: Target, config: ModelConfig) -> tuple[Key, ...]:
    """Every key of the file that holds a config value unchanged or by code."""
    parts = Parts.of(config)
    keys = MODEL_KEYS + (LATENT_KEYS if isinstance(parts.attention, MLAConfig) else target.attention_keys)
    keys += target.extra_keys + (MIXER_KEYS[parts.mixer.kind] if parts.mixer is not None else ())
    if parts.router is not None:
        keys += ROUTED_KEYS + target.routed_keys
        if parts.router.top_groups != parts.router.num_groups:
            keys += GROUP_KEYS  # equal: no group is ever left out, and llama.cpp needs no groups
    kind = parts.scaling.kind if parts.scaling is not None else None
    keys += SCALING_KEYS if kind in ("linear", "yarn") else ()  # the others are tensors of factors
    keys += YARN_KEYS if kind in ("longrope", "yarn") else ()
    # Two places of one key: `architectures.describe` sees to it that they hold one value.
    return tuple({key.name: key for key in keys}.values())
