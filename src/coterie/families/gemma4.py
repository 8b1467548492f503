"""Gemma 4 (`gemma4_text`, and `gemma4` around it with encoders of images and sound).

As in Gemma 3 there are norms before and after each part, scaled embeddings, GeGLU and sliding layers. Unlike
it, norms multiply by their weight, scores are not scaled, values are normed and each block has a factor.
Layers with full attention have wider heads, of which a part rotates, and may use their keys as values. The
last layers may use the keys and values of earlier ones. Tokens may have an input for each layer, except in
`gemma4_unified_text` (`gemma4_unified` with images and sound), which is the same otherwise. In 26B-A4B a
layer has experts next to its feed-forward, and norms for each of the two.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from coterie.config import AttentionConfig, ConfigError, ModelConfig, RopeConfig
from coterie.families.base import (
    COMMON_KEYS,
    Family,
    dense_ffn,
    grouped_query,
    layer_masks,
    layer_types,
    read_attention,
    read_layer_types,
    read_model,
    routed_ffn,
    write_model,
)
from coterie.families.mapping import Slot
from coterie.families.reader import Reader
from coterie.families.rope import layer_ropes_to_hf, read_layer_ropes
from coterie.families.slots import (
    SANDWICH,
    RoutedNames,
    decoder_slots,
    dense_model_slots,
    shared_slots,
)
from coterie.families.wrapper import wrapper

_FULL, _SLIDING = "full_attention", "sliding_attention"
_KEYS = (COMMON_KEYS - {"hidden_act"}) | frozenset(
    "hidden_activation attention_bias sliding_window layer_types final_logit_softcapping global_head_dim "
    "num_global_key_value_heads per_layer_config attention_k_eq_v num_kv_shared_layers use_double_wide_mlp "
    "hidden_size_per_layer_input vocab_size_per_layer_input enable_moe_block "
    "use_bidirectional_attention num_experts top_k_experts moe_intermediate_size".split()
)
# What transformers fills in.
_UNSAID: dict[str, Any] = {
    "vocab_size": 262144,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 30,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 131072,
    "sliding_window": 512,
    "global_head_dim": 512,
    "vocab_size_per_layer_input": 262144,
    "hidden_size_per_layer_input": 256,
}
_UNSAID_UNIFIED = {
    "max_position_embeddings": 262144,
    "sliding_window": 1024,
    "hidden_size_per_layer_input": 0,
}
_ROPES: dict[str, dict[str, Any]] = {
    _FULL: {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1e6},
    _SLIDING: {"rope_theta": 1e4},
}
_DIRECTIONS = "use_bidirectional_attention"  # kept as it is: text alone is causal in both
_OF_EXPERTS = ("num_experts", "top_k_experts", "moe_intermediate_size")


def _read(data: Mapping[str, Any], where: str, unified: bool = False) -> ModelConfig:
    reader = Reader({**_UNSAID, **(_UNSAID_UNIFIED if unified else {}), **data}, where)
    reader.expect("hidden_activation", "gelu_pytorch_tanh", None)
    reader.used.add("hidden_act")  # transformers reads the other name alone
    reader.expect(_DIRECTIONS, None, "vision")
    if unified:
        reader.expect("hidden_size_per_layer_input", 0, None)
        reader.expect("enable_moe_block", False, None)
    types = read_layer_types(reader, lambda index: _FULL if (index + 1) % 6 == 0 else _SLIDING)
    if types[-1] != _FULL:
        raise ConfigError(
            f"{where}: 'layer_types' ends with {types[-1]}, in place of which transformers takes {_FULL}; "
            f"name {_FULL} there"
        )
    attentions = _attentions(reader, types)
    per_layer = reader.get("hidden_size_per_layer_input", default=0)
    feed_forward = _feed_forwards(reader)
    rows = reader.get("vocab_size_per_layer_input")
    if per_layer and rows != reader.get("vocab_size"):
        raise ConfigError(
            f"{where}: 'vocab_size_per_layer_input' is {rows!r}; only vocab_size is supported here"
        )
    blocks = [
        {
            "attention": attention,
            "ffn": feed_forward(attention.get("keys_of") is not None),
            "norms": "sandwich",
            "per_layer_width": per_layer or None,
            "output_scale": True,
        }
        for attention in attentions
    ]
    config = read_model(
        reader,
        blocks,
        1e-6,
        True,
        norm_rounding="after_weight",
        embed_scale=reader.get("hidden_size") ** 0.5,
        logit_cap=reader.get("final_logit_softcapping", default=None),
    )
    kept = {_DIRECTIONS: data[_DIRECTIONS]} if _DIRECTIONS in data else {}
    return config.model_copy(update={"extra": config.extra | kept})


def _feed_forwards(reader: Reader) -> Callable[[bool], dict[str, Any]]:
    """What gives the feed-forward of a layer as data, asked whether it uses another's keys."""
    width = reader.get("intermediate_size")
    double = 2 if reader.flag("use_double_wide_mlp", False) else 1
    activation = {"activation": "gelu_tanh"}
    if not reader.flag("enable_moe_block", False):
        return lambda sharing: {"kind": "dense", "width": width * (double if sharing else 1)} | activation
    router = {
        "num_experts": reader.get("num_experts"),
        "top_k": reader.get("top_k_experts"),
        "renormalize": True,
        "renormalize_eps": 0.0,
        "input_norm_eps": reader.get("rms_norm_eps", default=1e-6),
        "expert_scale": True,
    }
    moe = {"kind": "moe", "expert_width": reader.get("moe_intermediate_size"), "router": router}
    moe |= activation | {"expert_norms": True}
    return lambda sharing: moe | {"shared_width": width * (double if sharing else 1)}


def _attentions(reader: Reader, types: list[str]) -> list[dict[str, Any]]:
    """The attention of each layer as data."""
    equal, bias = reader.flag("attention_k_eq_v", False), reader.flag("attention_bias", False)
    usual = read_attention(reader)
    full = _full_heads(reader, types, usual, equal)
    widths = {_FULL: full["head_dim"], _SLIDING: usual["head_dim"]}
    ropes = read_layer_ropes(reader, _ROPES, {}, partial=1.0, head_dims=widths)
    _check_ropes(reader, ropes)
    common = {
        "scale": 1.0,
        "qk_norm": "head",
        "value_norm": True,
        "qkv_bias": bias,
        "output_bias": bias,
    }
    sharing = reader.get("num_kv_shared_layers", default=0)
    if type(sharing) is not int or not 0 <= sharing < len(types):
        raise ConfigError(
            f"{reader.where}: 'num_kv_shared_layers' is {sharing!r}; give a whole number below the "
            f"{len(types)} layers"
        )
    first = len(types) - sharing
    if sharing and set(types[:first]) != set(types):
        raise ConfigError(
            f"{reader.where}: 'num_kv_shared_layers' is {sharing}, which leaves no layer of one of the types "
            "in 'layer_types' with keys to share"
        )
    attentions = []
    for index, (kind, mask) in enumerate(zip(types, layer_masks(reader, types), strict=True)):
        attention = usual | common | {"rope": ropes[kind]} | mask
        if kind == _FULL:
            attention |= full
        if index >= first:
            attention["keys_of"] = first - 1 - types[:first][::-1].index(kind)
        elif kind == _FULL:
            attention["keys_as_values"] = equal
        attentions.append(attention)
    return attentions


def _full_heads(reader: Reader, types: list[str], usual: dict[str, Any], equal: bool) -> dict[str, Any]:
    """Width and number of the key heads of layers with full attention, where transformers has them.

    That is `per_layer_config`, which transformers writes, or the keys of released models.
    """
    width = reader.get("global_head_dim")
    number = reader.get("num_global_key_value_heads", default=None) if equal else None
    reader.used.add("num_global_key_value_heads")
    found = {"head_dim": width, "num_kv_heads": usual["num_kv_heads"] if number is None else number}
    reader.used.add("per_layer_config")
    layers = reader.data.get("per_layer_config")
    if layers is None:
        return found
    names = {"head_dim": "head_dim", "num_key_value_heads": "num_kv_heads"}
    where = [str(index) for index, kind in enumerate(types) if kind == _FULL]
    ours = [layers.get(index) for index in where] if isinstance(layers, Mapping) else []
    settings = ours[0] if ours else None
    if (
        not isinstance(settings, Mapping)
        or set(layers) != set(where)
        or any(other != settings for other in ours)
        or set(settings) - set(names)
    ):
        raise ConfigError(
            f"{reader.where}: 'per_layer_config' must give head_dim and num_key_value_heads of the layers "
            "with full attention, the same for all, and nothing else"
        )
    return {names[name]: usual[names[name]] for name in names} | {
        names[name]: value for name, value in settings.items()
    }


def _check_ropes(reader: Reader, ropes: Mapping[str, RopeConfig]) -> None:
    """Refuse what transformers takes another way: only proportional positions rotate a part of a head."""
    for kind, rope in ropes.items():
        if rope.scaling is not None:
            raise ConfigError(
                f"{reader.where}: rope_parameters of {kind} have rope_type '{rope.scaling.kind}'; only "
                "default and proportional are supported here"
            )
        if rope.rotated is not None and not rope.proportional:
            raise ConfigError(
                f"{reader.where}: rope_parameters of {kind} have a partial_rotary_factor, which "
                "transformers ignores for rope_type 'default'; remove it"
            )


def _write(config: ModelConfig, unified: bool = False) -> dict[str, Any]:
    types = layer_types(config)
    attentions = [grouped_query(config, block) for block in config.blocks]
    of = dict(zip(types, attentions, strict=True))
    if _FULL not in of:
        raise ConfigError(f"a {config.family} checkpoint ends with a layer of full attention")
    full, usual = of[_FULL], of.get(_SLIDING)
    data = write_model(config, full)
    data |= (
        _heads(config, full, usual)
        | _write_feed_forwards(config)
        | {
            "hidden_activation": data.pop("hidden_act"),
            "attention_bias": full.qkv_bias,
            "attention_k_eq_v": any(one.keys_as_values for one in attentions),
            "num_kv_shared_layers": sum(one.keys_of is not None for one in attentions),
            "sliding_window": config.extra.get("sliding_window", 512) if usual is None else usual.window,
            "layer_types": types,
            "final_logit_softcapping": config.logit_cap,
        }
    )
    if not unified:
        data["hidden_size_per_layer_input"] = config.per_layer_width or 0
        data["vocab_size_per_layer_input"] = config.vocab_size
        data["enable_moe_block"] = config.is_moe
    for name in ("rope_theta", "rope_scaling", "partial_rotary_factor"):
        data.pop(name, None)
    ropes = {kind: one.rope for kind, one in of.items() if one.rope is not None}
    widths = {kind: one.head_dim for kind, one in of.items()}
    return data | {"rope_parameters": layer_ropes_to_hf(ropes, widths, {})["rope_parameters"]}


def _heads(config: ModelConfig, full: AttentionConfig, usual: AttentionConfig | None) -> dict[str, Any]:
    """Widths and numbers of key heads, as released models and as transformers 5 writes them."""
    sliding = full if usual is None else usual
    own = {"head_dim": full.head_dim}
    if full.num_kv_heads != sliding.num_kv_heads:
        own |= {"num_key_value_heads": full.num_kv_heads}
    return {
        "head_dim": sliding.head_dim,
        "num_key_value_heads": sliding.num_kv_heads,
        "global_head_dim": full.head_dim,
        "num_global_key_value_heads": own.get("num_key_value_heads"),
        "per_layer_config": {
            str(index): own for index, kind in enumerate(layer_types(config)) if kind == _FULL
        },
    }


def _write_feed_forwards(config: ModelConfig) -> dict[str, Any]:
    """The keys of what follows attention: of layers that are all dense, or all have experts."""
    if config.is_moe:
        moes = [routed_ffn(config, block) for block in config.blocks]
        widths = [moe.shared_width for moe in moes]
        router = moes[0].router
        experts = dict(
            zip(_OF_EXPERTS, (router.num_experts, router.top_k, moes[0].expert_width), strict=True)
        )
    else:
        widths, experts = [dense_ffn(config, block).width for block in config.blocks], {}
    return {
        "intermediate_size": widths[0],
        "use_double_wide_mlp": any(width != widths[0] for width in widths),
    } | experts


# Our names of a routed layer's further tensors, and theirs.
_MOE_TENSORS = {
    "router.weight": "router.proj.weight",
    "router.input_scale": "router.scale",
    "router.expert_scale": "router.per_expert_scale",
    "experts.gate_up.weight": "experts.gate_up_proj",
    "experts.down.weight": "experts.down_proj",
    "expert_norm.weight": "pre_feedforward_layernorm_2.weight",
    "expert_post_norm.weight": "post_feedforward_layernorm_2.weight",
    "shared_post_norm.weight": "post_feedforward_layernorm_1.weight",
}
_MLP = RoutedNames(shared="mlp")


def _slots(config: ModelConfig) -> list[Slot]:
    if not config.is_moe:
        return dense_model_slots(config, layer=SANDWICH)
    slots = decoder_slots(config, SANDWICH)
    for index, block in enumerate(config.blocks):
        disk, ours = f"model.layers.{index}", f"blocks.{index}.ffn"
        slots += [Slot(f"{disk}.{theirs}", f"{ours}.{own}") for own, theirs in _MOE_TENSORS.items()]
        slots += shared_slots(disk, ours, routed_ffn(config, block), config.width, _MLP)
    return slots


# Files may hold the projections that these layers do not have.
_UNUSED = tuple(
    f"model.layers.{{sharing}}.self_attn.{part}." for part in ("k_proj", "v_proj", "k_norm", "v_norm")
)
GEMMA4_TEXT = Family(
    "gemma4_text",
    "Gemma4ForCausalLM",
    _read,
    _write,
    _slots,
    _KEYS,
    _UNUSED,
    unrouted="its mixture adds experts to the dense feed-forward, with further norms",
    examples="the text models of Gemma 4 E2B, E4B, 26B-A4B and 31B",
)
GEMMA4 = wrapper(
    "gemma4",
    "Gemma4ForConditionalGeneration",
    (GEMMA4_TEXT,),
    ("model.vision_tower.", "model.embed_vision.", "model.audio_tower.", "model.embed_audio."),
    layout="inside",
    examples="Gemma 4 E2B, E4B, 26B-A4B and 31B",
)
GEMMA4_UNIFIED_TEXT = Family(
    "gemma4_unified_text",
    "Gemma4UnifiedForCausalLM",
    lambda data, where: _read(data, where, unified=True),
    lambda config: _write(config, unified=True),
    _slots,
    _KEYS - {"hidden_size_per_layer_input", "vocab_size_per_layer_input", "enable_moe_block", *_OF_EXPERTS},
    _UNUSED,
    unrouted="its mixture adds experts to the dense feed-forward, with further norms",
    examples="the text model of Gemma 4 12B",
)
GEMMA4_UNIFIED = wrapper(
    "gemma4_unified",
    "Gemma4UnifiedForConditionalGeneration",
    (GEMMA4_UNIFIED_TEXT,),
    ("model.vision_embedder.", "model.embed_vision.", "model.embed_audio."),
    layout="inside",
    examples="Gemma 4 12B",
)
