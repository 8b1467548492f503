"""What llama.cpp is told about a model (the keys of a GGUF file), and which models it cannot run.

llama.cpp builds a fixed graph per architecture. Whatever that graph has no switch for is compared here and
refused by name, so that a file is never written which would load and answer something else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from coterie.config import (
    AttentionConfig,
    ConfigError,
    FeedForwardConfig,
    MLAConfig,
    ModelConfig,
    MoEConfig,
    RopeConfig,
    RopeScaling,
)
from coterie.nn.rope import rotation_gain, yarn_gain


@dataclass(frozen=True)
class Target:
    """One architecture of llama.cpp.

    `pairs`: its rope turns neighbours (x[2j], x[2j+1]). `factors`: it reads per-frequency factors (llama3
    scaling). `head`: it wants the output matrix even where that is the embedding. `renormalize`: what it does
    with the chosen experts' weights (None: as the file says). `norm_before_ffn`: its name of the second norm.
    """

    name: str
    pairs: bool = False
    factors: bool = False
    head: bool = False
    renormalize: bool | None = None
    norm_before_ffn: str = "ffn_norm"


_LLAMA = Target("llama", pairs=True, factors=True, renormalize=True)
TARGETS = {
    "llama": _LLAMA,
    "mixtral": _LLAMA,
    "qwen3": Target("qwen3"),
    "qwen3_moe": Target("qwen3moe", renormalize=True),
    "olmoe": Target("olmoe", head=True, renormalize=False),
    "deepseek_v2": Target("deepseek2", pairs=True),
    "deepseek_v3": Target("deepseek2", pairs=True),
    "gpt_oss": Target("gpt-oss", head=True, renormalize=False, norm_before_ffn="post_attention_norm"),
    "llama4": Target("llama4", pairs=True, factors=True, renormalize=False),
    "llama4_text": Target("llama4", pairs=True, factors=True, renormalize=False),
}
Keys = dict[str, Any]


@dataclass(frozen=True)
class Description:
    """`keys`: names without the architecture's prefix. `differences`: what llama.cpp computes a little
    otherwise.
    """

    target: Target
    keys: Keys
    differences: tuple[str, ...]


def describe(config: ModelConfig) -> Description:
    """The architecture, its keys and its small differences. Errors: `ConfigError` for what llama.cpp cannot
    run.
    """
    if config.family not in TARGETS:
        raise ConfigError(f"a {config.family} model has no form in GGUF; known: {', '.join(sorted(TARGETS))}")
    target = TARGETS[config.family]
    keys: Keys = {
        "vocab_size": config.vocab_size,
        "context_length": config.max_positions,
        "embedding_length": config.width,
        "block_count": config.num_layers,
        "attention.layer_norm_rms_epsilon": config.norm_eps,
    }
    attentions = [block.attention for block in config.blocks]
    if any(isinstance(attention, MLAConfig) for attention in attentions):
        keys |= _latent(config, target)
    else:
        keys |= _grouped(config, target)
    keys |= _feed_forward(config, target)
    rope = next((attention.rope for attention in attentions if attention.rope is not None), RopeConfig())
    scaled, differences = _rope(rope, target, attentions[0])
    return Description(target, keys | scaled, differences)


def _refuse(target: Target, what: str) -> ConfigError:
    return ConfigError(
        f"llama.cpp's '{target.name}' architecture {what}; this model cannot be exported to GGUF"
    )


def _grouped(config: ModelConfig, target: Target) -> Keys:
    attentions = [block.attention for block in config.blocks if isinstance(block.attention, AttentionConfig)]
    first = attentions[0]
    if first.qkv_clip is not None:
        raise _refuse(target, f"does not clip queries, keys and values (clip_qkv {first.qkv_clip})")
    if target.name == "olmoe" and first.num_kv_heads != first.num_heads:
        raise _refuse(target, "needs as many key heads as query heads")
    keys: Keys = {
        "attention.head_count": first.num_heads,
        "attention.head_count_kv": first.num_kv_heads,
        "attention.key_length": first.head_dim,
        "attention.value_length": first.head_dim,
        "rope.dimension_count": first.head_dim,
    }
    if target.name == "gpt-oss":
        return keys | _sliding(config, target, attentions)
    if target.name == "llama4":
        _check_llama4(config, target, attentions)
        return keys
    for attention in attentions:
        if attention.window is not None and attention.window < config.max_positions:
            raise _refuse(target, f"has no sliding window (sliding_window {attention.window})")
    return keys


def _sliding(config: ModelConfig, target: Target, attentions: list[AttentionConfig]) -> Keys:
    if not all(attention.qkv_bias and attention.output_bias for attention in attentions):
        raise _refuse(target, "always has biases in the attention (attention_bias false)")
    windows = {attention.window for attention in attentions if attention.window is not None}
    keys: Keys = {"attention.sliding_window": windows.pop() if windows else config.max_positions}
    sliding = [attention.mask == "sliding" for attention in attentions]
    if sliding != [index % 2 == 0 for index in range(len(sliding))]:
        keys["attention.sliding_window_pattern"] = sliding
    return keys


def _check_llama4(config: ModelConfig, target: Target, attentions: list[AttentionConfig]) -> None:
    moe = next(block.ffn for block in config.blocks if isinstance(block.ffn, MoEConfig))
    normed = moe.router.num_experts != 128
    for index, attention in enumerate(attentions):
        if (attention.rope is None) != (index % 4 == 3):
            raise _refuse(
                target, "has a layer without positions after every third, and no others (no_rope_layers)"
            )
        if attention.rope is not None and attention.window != 8192:
            raise _refuse(target, f"has chunks of 8192 positions (attention_chunk_size {attention.window})")
        if attention.rope is not None and (attention.qk_norm == "weightless") != normed:
            raise _refuse(target, "norms queries and keys unless there are 128 experts (use_qk_norm)")
        tuned = attention.temperature
        if attention.rope is None and (tuned is None or (tuned.floor_scale, tuned.scale) != (8192, 0.1)):
            raise _refuse(target, "tunes the attention by floor_scale 8192 and attn_scale 0.1")


def _latent(config: ModelConfig, target: Target) -> Keys:
    first = config.blocks[0].attention
    assert isinstance(first, MLAConfig)
    if first.latent_eps != config.norm_eps:
        raise _refuse(target, f"norms everything with rms_norm_eps, the latents need {first.latent_eps:g}")
    lite = config.num_layers in (26, 27) or (config.num_layers == 48 and config.vocab_size == 128256)
    if lite and first.q_rank is not None:
        raise _refuse(target, f"takes {config.num_layers} layers for a model without q_lora_rank")
    return {
        "attention.head_count": first.num_heads,
        "attention.head_count_kv": 1,  # all heads share the latent
        "attention.key_length": first.kv_rank + first.rope_dim,
        "attention.value_length": first.kv_rank,
        "attention.key_length_mla": first.head_dim,
        "attention.value_length_mla": first.value_dim,
        "attention.kv_lora_rank": first.kv_rank,
        "rope.dimension_count": first.rope_dim,
    } | ({} if lite else {"attention.q_lora_rank": first.q_rank or 0})


def _feed_forward(config: ModelConfig, target: Target) -> Keys:
    dense = [block.ffn.width for block in config.blocks if isinstance(block.ffn, FeedForwardConfig)]
    routed = [block.ffn for block in config.blocks if isinstance(block.ffn, MoEConfig)]
    if not routed:
        return {"feed_forward_length": dense[0]}
    moe = routed[0]
    router = moe.router
    if target.renormalize not in (None, router.renormalize):
        done = "always" if target.renormalize else "never"
        raise _refuse(target, f"{done} divides the chosen experts' weights by their sum (norm_topk_prob)")
    if target.name == "qwen3moe" and dense:
        raise _refuse(target, "has experts in every layer (mlp_only_layers, decoder_sparse_step)")
    if moe.clamped is not None and (moe.clamped.alpha, moe.clamped.limit) != (1.702, 7.0):
        raise _refuse(target, "has swiglu_alpha 1.702 and swiglu_limit 7 built in")
    keys: Keys = {"expert_count": router.num_experts, "expert_used_count": router.top_k}
    keys["feed_forward_length"] = dense[0] if dense else moe.expert_width
    if target.name not in ("llama", "olmoe"):
        keys["expert_feed_forward_length"] = moe.expert_width
    if target.name == "deepseek2":
        keys |= _shared_and_groups(moe, target) | {"leading_dense_block_count": len(dense)}
    if target.name == "llama4":
        keys["interleave_moe_layer_step"] = _moe_step(config, target)
    return keys


def _shared_and_groups(moe: MoEConfig, target: Target) -> Keys:
    router = moe.router
    keys: Keys = {
        "expert_shared_count": (moe.shared_width or 0) // moe.expert_width,
        "expert_weights_scale": router.scale,
        "expert_weights_norm": router.renormalize,
        "expert_gating_func": 2 if router.score == "sigmoid" else 1,
    }
    if router.top_groups == router.num_groups:  # no group is ever left out
        return keys
    if router.group_score != "top2sum":
        raise _refuse(target, "ranks groups of experts by their two best, not by the best one (topk_method)")
    return keys | {"expert_group_count": router.num_groups, "expert_group_used_count": router.top_groups}


def _moe_step(config: ModelConfig, target: Target) -> int:
    routed = [isinstance(block.ffn, MoEConfig) for block in config.blocks]
    step = routed.index(True) + 1
    if routed != [(index + 1) % step == 0 for index in range(len(routed))]:
        raise _refuse(target, "has experts in every n-th layer (moe_layers)")
    return step


def _rope(
    rope: RopeConfig, target: Target, attention: AttentionConfig | MLAConfig
) -> tuple[Keys, tuple[str, ...]]:
    keys: Keys = {"rope.freq_base": rope.theta}
    scaling = rope.scaling
    if scaling is None:
        return keys, ()
    if scaling.kind == "llama3":
        if not target.factors:
            raise _refuse(target, "has no llama3 scaling of its positions (rope_type)")
        return keys, ()  # in the tensor rope_freqs
    keys |= {"rope.scaling.type": scaling.kind, "rope.scaling.factor": scaling.factor}
    if scaling.kind == "linear":
        if target.name == "deepseek2":
            raise _refuse(target, "has no linear scaling of its positions (rope_type)")
        return keys, ()
    if (scaling.beta_fast, scaling.beta_slow) != (32, 1) or scaling.factor <= 1:
        raise _refuse(
            target, "has YaRN with beta_fast 32, beta_slow 1 and a factor above 1 only (rope_parameters)"
        )
    keys["rope.scaling.original_context_length"] = scaling.original_max_positions
    width = attention.rope_dim if isinstance(attention, MLAConfig) else attention.head_dim
    return keys | _yarn_gains(scaling, target), _rounding(scaling, rope.theta, width)


def _yarn_gains(scaling: RopeScaling, target: Target) -> Keys:
    """Keys from which llama.cpp arrives at our gain of cos and sin and, with latents, of the softmax scale.

    It multiplies cos and sin by g = g(1) times `attn_factor`. For deepseek2 it multiplies them by
    `attn_factor` alone once `yarn_log_multiplier` (L / 10) is there, and the softmax scale by (`attn_factor`
    (1 + L (g - 1)))^2; without it both by g `attn_factor`, the softmax scale squared.
    """
    gain, full = rotation_gain(scaling), yarn_gain(scaling.factor)
    plain = {} if math.isclose(gain, full, rel_tol=1e-9) else {"rope.scaling.attn_factor": gain / full}
    if target.name != "deepseek2":
        return plain
    softmax = yarn_gain(scaling.factor, scaling.mscale_all_dim) if scaling.mscale_all_dim else 1.0
    if math.isclose(softmax, gain, rel_tol=1e-9):
        return plain
    keys: Keys = {"rope.scaling.yarn_log_multiplier": 0.1 * (softmax / gain - 1) / (full - 1)}
    return keys if gain == 1 else keys | {"rope.scaling.attn_factor": gain}


def _rounding(scaling: RopeScaling, theta: float, width: int) -> tuple[str, ...]:
    """llama.cpp always rounds YaRN's ramp outwards to whole dimensions; not all models do."""
    if scaling.truncate:
        return ()
    ends = [
        width * math.log(scaling.original_max_positions / (turns * 2 * math.pi)) / (2 * math.log(theta))
        for turns in (scaling.beta_fast, scaling.beta_slow)
    ]
    if ends[0] == math.floor(ends[0]) and ends[1] == math.ceil(ends[1]):
        return ()
    return (
        f"llama.cpp rounds YaRN's ramp outwards: dimensions {math.floor(ends[0])} to {math.ceil(ends[1])} instead of "
        f"{ends[0]:.2f} to {ends[1]:.2f} (truncate false)",
    )
