"""The record of a family, and what most families share: config keys, both ways."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from coterie.config import (
    AttentionConfig,
    BlockConfig,
    ConfigError,
    FeedForwardConfig,
    MLAConfig,
    ModelConfig,
    MoEConfig,
)
from coterie.config.mixers import STATE_MIXERS
from coterie.families.mapping import Slot
from coterie.families.reader import Reader, head_dim
from coterie.families.rope import read_rope, rope_to_hf


class LayerKindError(ConfigError):
    """A model has dense layers, or routed ones, in a family that has none of this kind."""


@dataclass(frozen=True)
class Family:
    """`model_type` with its config both ways and its tensor mapping.

    `keys`: config keys a new model may set. `carried`: beginnings of the names of tensors that are not part
    of the Transformer and are kept as they are (`{layers}`: the number of layers; `{layer}`: each one;
    `{sharing}`: each one that uses another's keys). `fused`:
    how transformers holds the experts of a layer as one tensor: `(E, out, in)`, `(E, in, out)`, or the latter
    without the mark by which PEFT recognises it.
    `dense`: the family of the same decoder with dense feed-forwards, for surgery (None: there is none);
    `also_dense`: others, for models that it cannot carry. `upcycled`: settings that every router of this
    family has, for a new one. `shared`: the expert for all tokens that every routed layer of it has.
    `part_blocks`: a layer is attention, another mixer or a feed-forward alone; else it is a mixer and a
    feed-forward.
    `peft_refuses`: linear layers, by the last part of their names, on which PEFT puts no factors here.
    `unrouted`: for a family of dense models without a routed counterpart, why there is none.
    `memory_names`: parts of tensor names as transformers has them in memory, and as they are on disk.
    `predicting`: those of `carried` that are layers for multi-token prediction.
    `texts`: for a model around a text model (`wrapper.py`), the types of text models that it may hold.
    `examples`: published models, for readers.
    `write` and `slots` raise `ConfigError` for a model whose layers the family cannot have.
    """

    model_type: str
    architecture: str
    read: Callable[[Mapping[str, Any], str], ModelConfig]
    write: Callable[[ModelConfig], dict[str, Any]]
    slots: Callable[[ModelConfig], list[Slot]]
    keys: frozenset[str]
    carried: tuple[str, ...] = ()
    fused: Literal["out-in", "in-out", "in-out unmarked"] = "out-in"
    dense: str | None = None
    also_dense: tuple[str, ...] = ()
    upcycled: Mapping[str, Any] = field(default_factory=dict)
    shared: Literal["none", "plain", "gated"] = "none"
    part_blocks: bool = False
    peft_refuses: tuple[str, ...] = ()
    unrouted: str = ""
    predicting: tuple[str, ...] = ()
    memory_names: tuple[tuple[str, str], ...] = ()
    texts: tuple[str, ...] = ()
    examples: str = ""

    def carries(self, config: ModelConfig) -> tuple[str, ...]:
        """Beginnings of the names of the tensors that a model of this config keeps as they are."""
        return self._named(self.carried, config)

    def predicts(self, config: ModelConfig) -> tuple[str, ...]:
        """The same of those that belong to layers for multi-token prediction."""
        return self._named(self.predicting, config)

    def _named(self, prefixes: tuple[str, ...], config: ModelConfig) -> tuple[str, ...]:
        total = config.num_layers + config.num_mtp_layers
        sharing = [
            layer
            for layer, block in enumerate(config.blocks)
            if isinstance(block.attention, AttentionConfig) and block.attention.keys_of is not None
        ]
        ranges = {"{layer}": range(total), "{sharing}": sharing}
        return tuple(
            prefix.format(layers=config.num_layers, layer=layer, sharing=layer)
            for prefix in prefixes
            for layer in next((some for mark, some in ranges.items() if mark in prefix), (0,))
        )


COMMON_KEYS = frozenset(
    "model_type vocab_size hidden_size num_hidden_layers num_attention_heads num_key_value_heads head_dim "
    "max_position_embeddings rms_norm_eps tie_word_embeddings initializer_range rope_theta rope_scaling "
    "rope_parameters hidden_act intermediate_size".split()
)


def read_attention(reader: Reader, **variation: Any) -> dict[str, Any]:
    """Head counts and width of `AttentionConfig` from the common keys, as keyword arguments."""
    num_heads = reader.get("num_attention_heads")
    num_kv_heads = reader.get("num_key_value_heads", default=num_heads)
    heads = {"num_heads": num_heads, "num_kv_heads": num_kv_heads, "head_dim": head_dim(reader)}
    return heads | variation


_TYPES = {"sliding_attention": "sliding", "full_attention": "causal"}


def read_layer_types(reader: Reader, usual: Callable[[int], str]) -> list[str]:
    """`layer_types`, or `usual` of each layer's index where they are not there: sliding or full attention."""
    num_layers = reader.get("num_hidden_layers")
    types: list[str] = reader.get("layer_types", default=None) or [
        usual(index) for index in range(num_layers)
    ]
    if set(types) - set(_TYPES) or len(types) != num_layers:
        raise ConfigError(
            f"{reader.where}: 'layer_types' needs {num_layers} entries out of {', '.join(_TYPES)}"
        )
    return types


def layer_masks(reader: Reader, types: list[str]) -> list[dict[str, Any]]:
    """The mask of each layer as keyword arguments of `AttentionConfig`."""
    window = reader.get("sliding_window") if "sliding_attention" in types else None
    sliding = {"mask": "sliding", "window": window}
    return [sliding if _TYPES[kind] == "sliding" else {"mask": "causal"} for kind in types]


def read_window(reader: Reader, unsaid: int | None = None) -> dict[str, Any]:
    """`sliding_window` of every layer as keyword arguments of `AttentionConfig`; none where it is null."""
    window = reader.get("sliding_window", default=None if "sliding_window" in reader.data else unsaid)
    return {} if window is None else {"mask": "sliding", "window": window}


def layer_types(config: ModelConfig) -> list[str]:
    """`layer_types` of a model whose layers have full or sliding attention."""
    masks = [grouped_query(config, block).mask for block in config.blocks]
    return ["sliding_attention" if mask == "sliding" else "full_attention" for mask in masks]


def read_moe(
    reader: Reader,
    expert_width: int,
    experts_keys: tuple[str, ...],
    router: Mapping[str, Any],
    balance: Mapping[str, Any] | None = None,
    loss_key: str = "router_aux_loss_coef",
    **variation: Any,
) -> dict[str, Any]:
    """`MoEConfig` as data. `experts_keys`: the names of the number of experts. The rest adds to each part."""
    common = {"num_experts": reader.get(*experts_keys), "top_k": reader.get("num_experts_per_tok")}
    coefficient = {"loss_coef": reader.get(loss_key, default=0.0)}
    moe = {"kind": "moe", "expert_width": expert_width, "router": common | dict(router)}
    return moe | {"balance": coefficient | dict(balance or {})} | variation


def read_model(
    reader: Reader, blocks: list[dict[str, Any]], default_eps: float, default_tie: bool, **variation: Any
) -> ModelConfig:
    """The whole `ModelConfig` from the common keys and the blocks; unknown keys go to `extra`."""
    if "hidden_act" not in reader.used:
        reader.expect("hidden_act", "silu", "swish")  # two names of one function
    reader.refuse_unread()
    data = {
        "family": reader.data["model_type"],
        "vocab_size": reader.get("vocab_size"),
        "width": reader.get("hidden_size"),
        "blocks": blocks,
        "max_positions": reader.get("max_position_embeddings"),
        "norm_eps": reader.get("rms_norm_eps", default=default_eps),
        "tie_embeddings": reader.get("tie_word_embeddings", default=default_tie),
        "init_std": reader.get("initializer_range", default=0.02),
    }
    return ModelConfig.from_dict(data | variation | {"extra": reader.rest()}, reader.where)


def read_dense(
    reader: Reader,
    theta: float,
    default_eps: float,
    default_tie: bool,
    bias: bool = False,
    style: str = "half",
    **attention: Any,
) -> ModelConfig:
    """A dense decoder whose layers are alike, from the common keys.

    `theta`, `style`: of its rope. `bias`: whether the SwiGLUs have biases. The rest adds to the attention.
    """
    layer = read_attention(reader, rope=read_rope(reader, theta, style), **attention)
    layers = [layer] * reader.get("num_hidden_layers")
    return read_dense_layers(reader, layers, default_eps, default_tie, bias)


def read_dense_layers(
    reader: Reader,
    attentions: list[dict[str, Any]],
    default_eps: float,
    default_tie: bool,
    bias: bool = False,
    activation: str = "silu",
    block: Mapping[str, Any] | None = None,
    **variation: Any,
) -> ModelConfig:
    """A dense decoder from the attention of each layer; see `read_dense`.

    `block`: what else its blocks have. The rest adds to the model.
    """
    width = reader.get("intermediate_size")
    ffn = {"kind": "dense", "width": width, "bias": bias, "activation": activation}
    blocks = [{"attention": attention, "ffn": ffn} | dict(block or {}) for attention in attentions]
    return read_model(reader, blocks, default_eps, default_tie, **variation)


def write_dense(
    config: ModelConfig, partial: bool = False
) -> tuple[dict[str, Any], AttentionConfig, FeedForwardConfig]:
    """The common keys of a dense decoder, and the attention (the first with positions) and SwiGLU to add.

    Errors: `LayerKindError` for a routed one, `ConfigError` for latent attention.
    """
    attentions = [grouped_query(config, block) for block in config.blocks]
    attention = next((one for one in attentions if one.rope is not None), attentions[0])
    ffns = [dense_ffn(config, block) for block in config.blocks]
    data = write_model(config, attention, partial) | {"intermediate_size": ffns[0].width}
    return data, attention, ffns[0]


def write_routed(
    config: ModelConfig, partial: bool = False
) -> tuple[dict[str, Any], AttentionConfig, MoEConfig]:
    """The common keys of a decoder with experts in every layer, in Mixtral's words, and what to add from.

    Errors: `LayerKindError` for a dense layer, `ConfigError` for latent attention.
    """
    attentions = [grouped_query(config, block) for block in config.blocks]
    moes = [routed_ffn(config, block) for block in config.blocks]
    data = write_model(config, attentions[0], partial) | {
        "intermediate_size": moes[0].expert_width,
        "num_local_experts": moes[0].router.num_experts,
        "num_experts_per_tok": moes[0].router.top_k,
        "router_aux_loss_coef": moes[0].balance.loss_coef,
    }
    return data, attentions[0], moes[0]


_ACTIVATIONS = {"silu": "silu", "gelu_tanh": "gelu_pytorch_tanh", "relu2": "relu2"}


def _activation(config: ModelConfig) -> str:
    """That of the first feed-forward."""
    return next(block.ffn.activation for block in config.blocks if block.ffn is not None)


def write_model(
    config: ModelConfig, attention: AttentionConfig | MLAConfig, partial: bool = False
) -> dict[str, Any]:
    """The common keys of `config.json`. `head_dim` of latent attention is its rotated part (transformers).

    `partial`: the family has heads that rotate in part.
    """
    if isinstance(attention, MLAConfig):
        num_kv_heads, width = attention.num_heads, attention.rope_dim
    else:
        num_kv_heads, width = attention.num_kv_heads, attention.head_dim
    data = {
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": attention.num_heads,
        "num_key_value_heads": num_kv_heads,
        "head_dim": width,
        "hidden_act": _ACTIVATIONS[_activation(config)],
        "max_position_embeddings": config.max_positions,
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tie_embeddings,
        "initializer_range": config.init_std,
    }
    return data | (rope_to_hf(attention.rope, width, partial) if attention.rope else {})


def grouped_query(config: ModelConfig, block: BlockConfig) -> AttentionConfig:
    """The block's attention, for families without latent attention. Errors: `ConfigError` for any other."""
    if isinstance(block.attention, STATE_MIXERS):
        raise ConfigError(f"a {config.family} checkpoint has no layer of this kind: {block.attention.words}")
    if not isinstance(block.attention, AttentionConfig):
        raise ConfigError(
            f"a {config.family} checkpoint has no latent attention; use deepseek_v3 or deepseek_v2"
        )
    return block.attention


def dense_ffn(config: ModelConfig, block: BlockConfig) -> FeedForwardConfig:
    """The block's feed-forward, for dense families. Errors: `LayerKindError` for a mixture of experts."""
    if not isinstance(block.ffn, FeedForwardConfig):
        raise LayerKindError(f"a {config.family} checkpoint has no experts; its feed-forwards must be dense")
    return block.ffn


def routed_ffn(config: ModelConfig, block: BlockConfig) -> MoEConfig:
    """The block's experts, for families without dense layers. Errors: `LayerKindError` for a dense one."""
    if not isinstance(block.ffn, MoEConfig):
        raise LayerKindError(
            f"a {config.family} checkpoint has no dense layers; every layer must have experts"
        )
    return block.ffn


def first_ffns(config: ModelConfig) -> tuple[FeedForwardConfig | None, MoEConfig | None]:
    """The first dense and the first routed feed-forward of the model; None where it has none of the kind."""
    ffns = [block.ffn for block in config.blocks]
    return (
        next((ffn for ffn in ffns if isinstance(ffn, FeedForwardConfig)), None),
        config.first_moe,
    )
