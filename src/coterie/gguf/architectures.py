"""The keys of a GGUF file for a model, and which models llama.cpp cannot run.

llama.cpp builds a fixed graph per architecture. A model that needs something its graph cannot compute is
refused by name, so that no file is written that would load and answer something else.
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
    RopeScaling,
)
from coterie.gguf.mixed_layers import mixed_keys, mixer_differences, unfit_mixer
from coterie.llamacpp.indexer import FULL, SHARED, TYPES, indexer_types
from coterie.llamacpp.key_tables import YARN_KEYS, Parts
from coterie.llamacpp.kinds import keys_by_kind, lacking
from coterie.llamacpp.targets import TARGETS, ChunkedAttention, Target, keys_of, target_of
from coterie.nn.rope import rotation_gain, yarn_gain

Keys = dict[str, Any]


@dataclass(frozen=True)
class Description:
    """`keys`: names without the architecture's prefix. `differences`: what llama.cpp computes differently."""

    target: Target
    keys: Keys
    differences: tuple[str, ...]


def describe(config: ModelConfig) -> Description:
    """The architecture, its keys and its small differences.

    Errors: `ConfigError` for what llama.cpp cannot run.
    """
    if config.family not in TARGETS:
        raise ConfigError(f"a {config.family} model has no form in GGUF; known: {', '.join(sorted(TARGETS))}")
    target, parts = target_of(config), Parts.of(config)
    if isinstance(parts.attention, MLAConfig):
        derived = _latent(config, target, parts.attention)
    elif target.by_kind:
        for lack in lacking(config):
            raise _refuse(target, lack)
        derived = {}
    else:
        derived = _grouped(config, target)
    reason = unfit_mixer(config, target)
    if reason is not None:
        raise _refuse(target, reason)
    if target.mixed is not None:
        derived |= mixed_keys(config, target.mixed)
    derived |= _feed_forward(config, target)
    if target.by_kind:
        derived |= keys_by_kind(config)
    scaled, differences = _scaling(parts, target)
    differences += mixer_differences(config)
    if any(block.ffn is not None and block.ffn.activation == "gelu_tanh" for block in config.blocks):
        differences += ("llama.cpp takes GELU from a table of 16-bit floats",)
    plain = {key.name: key.write(parts) for key in keys_of(target, config)}
    for name, usual in target.usual.items():
        if plain.get(name) is None:
            raise _refuse(target, f"cannot do without {name}: it takes {usual:g}")
    plain = {name: value for name, value in plain.items() if value is not None}
    return Description(target, plain | derived | scaled, differences)


def _refuse(target: Target, what: str) -> ConfigError:
    return ConfigError(
        f"llama.cpp's '{target.name}' architecture {what}; this model cannot be exported to GGUF"
    )


def _grouped(config: ModelConfig, target: Target) -> Keys:
    """Keys of grouped-query attention that are derived from the config."""
    attentions = [block.attention for block in config.blocks if isinstance(block.attention, AttentionConfig)]
    first = attentions[0]
    if first.qkv_clip is not None:
        raise _refuse(target, f"does not clip queries, keys and values (clip_qkv {first.qkv_clip})")
    _check_biases(config, target)
    if target.full_width and first.num_heads * first.head_dim != config.width:
        raise _refuse(target, "needs heads that fill the model's width (head_dim)")
    if target.equal_heads and first.num_kv_heads != first.num_heads:
        raise _refuse(target, "needs as many key heads as query heads")
    if all(key.place != "attention.softmax_scale" for key in target.extra_keys):
        _check_scale(config, target, first)
    if target.sliding is not None:
        return _sliding(config, target, attentions, target.sliding)
    if target.chunked is not None:
        _check_chunked(config, target, target.chunked, attentions)
        return {}
    every = target.no_rope_every
    for index, attention in enumerate(attentions):
        if target.mixed is not None and target.mixed.rope_switch:
            pass
        elif (attention.rope is None) != (every is not None and index % every == every - 1):
            pattern = f"only in every {every}th layer" if every else "in no layer"
            raise _refuse(target, f"leaves positions out {pattern} (no_rope_layers)")
        if attention.window is not None and attention.window < config.max_positions:
            raise _refuse(target, f"has no sliding window (sliding_window {attention.window})")
    return {"attention.sliding_window": first.window or 0} if target.states_window else {}


def _check_biases(config: ModelConfig, target: Target) -> None:
    """Refuse a bias that the architecture has no place for."""
    for block in config.blocks:
        attention, ffn = block.attention, block.ffn
        if isinstance(attention, AttentionConfig):
            if attention.qkv_bias and target.biases == "none":
                raise _refuse(target, "has no biases on queries, keys and values (attention_bias)")
            if attention.output_bias and target.biases != "any":
                raise _refuse(
                    target, "has no bias on the attention's output (attention_bias, attention_out_bias)"
                )
        if isinstance(ffn, FeedForwardConfig) and ffn.bias and target.biases != "any":
            raise _refuse(target, "has no biases in the feed-forward (mlp_bias, use_bias)")


def _check_scale(config: ModelConfig, target: Target, first: AttentionConfig) -> None:
    """Refuse a scale of the scores that llama.cpp does not compute from the model's sizes."""
    wide = target.wide_scale_layers == config.num_layers
    width = config.width / first.num_heads if wide else first.head_dim
    if not math.isclose(first.softmax_scale, width**-0.5, rel_tol=1e-6):
        raise _refuse(target, f"scales scores by {width:g}^-0.5 at this size (query_pre_attn_scalar)")


def _sliding(config: ModelConfig, target: Target, attentions: list[AttentionConfig], every: int) -> Keys:
    if target.always_biased and not all(one.qkv_bias and one.output_bias for one in attentions):
        raise _refuse(target, "always has biases in the attention (attention_bias false)")
    windows = {attention.window for attention in attentions if attention.window is not None}
    keys: Keys = {"attention.sliding_window": windows.pop() if windows else config.max_positions}
    sliding = [attention.mask == "sliding" for attention in attentions]
    if sliding != [index % every != every - 1 for index in range(len(sliding))]:  # llama.cpp's default
        if not target.window_pattern_key:
            raise _refuse(target, f"has a full layer after every {every - 1} sliding ones (layer_types)")
        keys["attention.sliding_window_pattern"] = sliding
    local = next((one.rope for one in attentions if one.mask == "sliding" and one.rope is not None), None)
    if local is None:
        return keys
    if local.scaling is not None and not target.scale_sliding:
        raise _refuse(target, "does not scale the positions of sliding layers (rope_parameters)")
    if target.local_theta is not None:
        keys["rope.freq_base_swa"] = local.theta
    elif local.theta != Parts.of(config).rope.theta:
        raise _refuse(target, "has one rope_theta for sliding and full layers (rope_parameters)")
    return keys


def _check_chunked(
    config: ModelConfig, target: Target, built_in: ChunkedAttention, attentions: list[AttentionConfig]
) -> None:
    _, moe = config.moe_layers()[0]
    normed, every = moe.router.num_experts != built_in.unnormed_experts, built_in.global_every
    for index, attention in enumerate(attentions):
        if (attention.rope is None) != (index % every == every - 1):
            raise _refuse(
                target, "has a layer without positions after every third, and no others (no_rope_layers)"
            )
        tuned = attention.temperature
        if attention.rope is None:
            scales = None if tuned is None else (tuned.floor_scale, tuned.scale)
            if scales != (built_in.floor_scale, built_in.scale):
                wanted = f"floor_scale {built_in.floor_scale} and attn_scale {built_in.scale:g}"
                raise _refuse(target, f"tunes the attention by {wanted}")
        elif attention.window != built_in.window:
            found = f"attention_chunk_size {attention.window}"
            raise _refuse(target, f"has chunks of {built_in.window} positions ({found})")
        elif (attention.qk_norm == "weightless") != normed:
            limit = built_in.unnormed_experts
            raise _refuse(target, f"norms queries and keys unless there are {limit} experts (use_qk_norm)")


def _latent(config: ModelConfig, target: Target, first: MLAConfig) -> Keys:
    """Keys of latent attention that are derived from the config."""
    if first.latent_eps != config.norm_eps:
        raise _refuse(target, f"norms everything with rms_norm_eps, the latents need {first.latent_eps:g}")
    keys: Keys = {"attention.head_count_kv": 1}  # all heads share the latent
    keys["attention.key_length"] = first.kv_rank + first.rope_dim
    if target.indexer is not None:
        return keys | {"attention.q_lora_rank": first.q_rank} | _indexer(config, target)
    # llama.cpp recognises models without q_lora_rank by their size alone.
    lite = config.num_layers in (26, 27) or (config.num_layers == 48 and config.vocab_size == 128256)
    if lite and first.q_rank is not None:
        raise _refuse(target, f"takes {config.num_layers} layers for a model without q_lora_rank")
    return keys if lite else keys | {"attention.q_lora_rank": first.q_rank or 0}


def _indexer(config: ModelConfig, target: Target) -> Keys:
    """Which layers have an indexer, where the architecture has a key for it."""
    types = indexer_types(config, f"a {config.family} model")
    if target.indexer == "all" and SHARED in types:
        raise _refuse(target, "has an indexer in every layer (indexer_types)")
    return {TYPES: [one == FULL for one in types]} if target.indexer == "some" else {}


def _feed_forward(config: ModelConfig, target: Target) -> Keys:
    """Keys of the feed-forwards that are derived from the config."""
    dense = [block.ffn.width for block in config.blocks if isinstance(block.ffn, FeedForwardConfig)]
    moe = config.first_moe
    widths = _lone_widths(config, target) if target.lone_parts else None
    if moe is None:
        return {"feed_forward_length": widths or dense[0]}
    if target.renormalize not in (None, moe.router.renormalize):
        done = "always" if target.renormalize else "never"
        raise _refuse(target, f"{done} divides the chosen experts' weights by their sum (norm_topk_prob)")
    if target.layers == "routed" and dense:
        raise _refuse(target, "has experts in every layer (mlp_only_layers, decoder_sparse_step, mlp)")
    if moe.clamped is not None and (moe.clamped.alpha, moe.clamped.limit) != (1.702, 7.0):
        raise _refuse(target, "has swiglu_alpha 1.702 and swiglu_limit 7 built in")
    if len({one.router.top_k for _, one in config.moe_layers()}) > 1:
        raise _refuse(target, "chooses the same number of experts in every layer (moe_topk)")
    if target.selects and (moe.router.scale, moe.router.select_bias) != (1, True):
        raise _refuse(target, "selects by a bias and scales no weights (use_expert_bias, scale)")
    router = moe.router
    if router.top_groups != router.num_groups and router.group_score != "top2sum":
        raise _refuse(target, "ranks groups of experts by their two best, not by the best one (topk_method)")
    keys: Keys = {"feed_forward_length": widths or (dense[0] if dense else moe.expert_width)}
    if target.layers == "leading":
        keys |= _leading(config, target, len(dense))
    elif target.layers == "stepped":
        keys["interleave_moe_layer_step"] = _moe_step(config, target)
    if target.shared_width_key and moe.shared_width:
        keys["expert_shared_feed_forward_length"] = moe.shared_width
    if target.shared:
        keys["expert_shared_count"] = (moe.shared_width or 0) // moe.expert_width
    return keys


def _lone_widths(config: ModelConfig, target: Target) -> list[int]:
    """The width of the feed-forward of each layer that is one, 0 for the others."""
    widths = []
    for block in config.blocks:
        ffn = block.ffn
        if ffn is None:
            widths.append(0)
            continue
        if ffn.gated or ffn.activation != "relu2":
            raise _refuse(target, "has no gate in the feed-forward and squares its ReLU (mlp_hidden_act)")
        if isinstance(ffn, MoEConfig) and not ffn.shared_width:
            raise _refuse(target, "always has a shared expert (moe_shared_expert_intermediate_size)")
        widths.append(ffn.width if isinstance(ffn, FeedForwardConfig) else ffn.expert_width)
    return widths


def _moe_step(config: ModelConfig, target: Target) -> int:
    routed = [index for index, _ in config.moe_layers()]
    step = routed[0] + 1
    if routed != list(range(routed[0], config.num_layers, step)):
        raise _refuse(target, "has experts in every n-th layer (moe_layers)")
    return step


def _leading(config: ModelConfig, target: Target, num_dense: int) -> Keys:
    if any(index < num_dense for index, _ in config.moe_layers()):
        raise _refuse(target, "has its dense layers first (mlp_layer_types, moe_layer_interval)")
    keys: Keys = {"leading_dense_block_count": num_dense}
    return keys | ({"interleave_moe_layer_step": 1} if target.step_key else {})


def _scaling(parts: Parts, target: Target) -> tuple[Keys, tuple[str, ...]]:
    """Keys of scaled positions that are derived from the config, and what llama.cpp rounds differently."""
    scaling, attention, temperature = parts.scaling, parts.attention, parts.temperature
    if scaling is None:
        return {}, ()
    if scaling.kind == "llama3":
        if not target.factors:
            raise _refuse(target, "has no llama3 scaling of its positions (rope_type)")
        return {}, ()
    if scaling.kind == "linear":
        if not target.linear_rope:
            raise _refuse(target, "has no linear scaling of its positions (rope_type)")
        return {}, ()
    if scaling.kind == "longrope" and target.longrope:
        return _longrope(scaling)
    if scaling.kind != "yarn" or (target.latent and not target.yarn_multiplier):
        raise _refuse(target, f"has no {scaling.kind} scaling of its positions (rope_type)")
    if (scaling.beta_fast, scaling.beta_slow) != (32, 1) or scaling.factor <= 1:
        raise _refuse(
            target, "has YaRN with beta_fast 32, beta_slow 1 and a factor above 1 only (rope_parameters)"
        )
    one_key = any(key.name == YARN_KEYS[0].name for key in target.extra_keys)
    if one_key and temperature is not None and temperature.floor_scale != scaling.original_max_positions:
        raise _refuse(
            target, "lets queries grow at YaRN's original context only (original_max_position_embeddings)"
        )
    latent = isinstance(attention, MLAConfig)
    width = attention.rope_dim if isinstance(attention, MLAConfig) else parts.value("rope.rotated")
    # A key of our own, which llama.cpp does not read: without it a file could not say this.
    rounded: Keys = {"rope.scaling.yarn_truncate": scaling.truncate}
    said = {} if scaling.truncate == target.yarn_truncate else rounded
    return _yarn_gains(scaling, target, latent) | said, _rounding(scaling, parts.rope.theta, width)


def _longrope(scaling: RopeScaling) -> tuple[Keys, tuple[str, ...]]:
    """The gain; the factors are tensors, and the factor of the length is in none of its places."""
    original = scaling.original_max_positions
    return _unless_one("rope.scaling.attn_factor", rotation_gain(scaling)), (
        f"llama.cpp takes the factors for long texts in every text of a context of more than {original} "
        "tokens (LongRoPE), and those for short ones in no other",
    )


def _yarn_gains(scaling: RopeScaling, target: Target, latent: bool) -> Keys:
    """Keys from which llama.cpp arrives at our gain of cos and sin and, with latents, of the softmax scale.

    llama.cpp multiplies cos and sin by g = g(1) times `attn_factor` A. With `yarn_log_multiplier` (L in units
    of the target's) there are two kinds. `deepseek2` multiplies them by A, and the softmax scale by
    (A g(L))^2. A target that divides (`yarn_divides`) multiplies them by A g / g(L), and with latents the
    softmax scale by (A g)^2. Without L both are A g, the softmax scale squared.
    """
    gain, full = rotation_gain(scaling), yarn_gain(scaling.factor)
    plain = _unless_one("rope.scaling.attn_factor", gain / full)
    if not target.yarn_multiplier:
        return plain
    softmax = yarn_gain(scaling.factor, scaling.mscale_all_dim) if scaling.mscale_all_dim else 1.0
    if target.yarn_divides:
        # Without latents nothing asks for a softmax scale: L is then the divisor that the config states.
        factor = softmax / full if latent else gain * softmax / full
        logarithm = (factor * full / gain - 1) / (full - 1)
    else:
        factor, logarithm = gain, (softmax / gain - 1) / (full - 1)
        if math.isclose(softmax, gain, rel_tol=1e-9):
            return plain
    keys = _unless_one("rope.scaling.attn_factor", factor)
    if abs(logarithm) < 1e-9:
        return keys
    return {"rope.scaling.yarn_log_multiplier": target.yarn_multiplier * logarithm} | keys


def _unless_one(name: str, value: float) -> Keys:
    return {} if math.isclose(value, 1, rel_tol=1e-9) else {name: value}


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
    rounded, exact = f"{math.floor(ends[0])} to {math.ceil(ends[1])}", f"{ends[0]:.2f} to {ends[1]:.2f}"
    return (
        f"llama.cpp rounds YaRN's ramp outwards: dimensions {rounded} instead of {exact} (truncate false)",
    )
