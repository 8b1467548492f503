"""The record of a family, and what most families share: Llama's names of tensors and config keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
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
from coterie.families.mapping import Slot, View, expert, expert_half, whole
from coterie.families.reader import Reader
from coterie.families.rope import read_rope, rope_to_hf


class LayerKindError(ConfigError):
    """A model has dense layers, or routed ones, in a family that has none of this kind."""


@dataclass(frozen=True)
class Family:
    """`model_type` with its config both ways and its tensor mapping.

    `keys`: config keys a new model may set. `carried`: beginnings of the names of tensors that are not part
    of the Transformer and are kept as they are (`{layers}`: the number of layers; see `carries`). `fused`:
    how transformers holds the experts of a layer as one tensor: `(E, out, in)`, `(E, in, out)`, or the latter
    without the mark by which PEFT recognises it.
    `dense`: the family of the same decoder with dense feed-forwards, for surgery (None: there is none).
    `memory_names`: parts of tensor names as transformers has them in memory, and as they are on disk.
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
    memory_names: tuple[tuple[str, str], ...] = ()
    texts: tuple[str, ...] = ()
    examples: str = ""

    def carries(self, config: ModelConfig) -> tuple[str, ...]:
        """Beginnings of the names of the tensors that a model of this config keeps as they are."""
        return tuple(prefix.format(layers=config.num_layers) for prefix in self.carried)


COMMON_KEYS = frozenset(
    "model_type vocab_size hidden_size num_hidden_layers num_attention_heads num_key_value_heads head_dim "
    "max_position_embeddings rms_norm_eps tie_word_embeddings initializer_range rope_theta rope_scaling "
    "rope_parameters hidden_act intermediate_size".split()
)


def read_attention(reader: Reader, **variation: Any) -> dict[str, Any]:
    """Head counts and width of `AttentionConfig` from the common keys, as keyword arguments."""
    num_heads = reader.get("num_attention_heads")
    head_dim = reader.get("head_dim", default=None)
    if head_dim is None:
        head_dim = reader.get("hidden_size") // num_heads
    num_kv_heads = reader.get("num_key_value_heads", default=num_heads)
    return {"num_heads": num_heads, "num_kv_heads": num_kv_heads, "head_dim": head_dim} | variation


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
    reader: Reader, attentions: list[dict[str, Any]], default_eps: float, default_tie: bool, bias: bool
) -> ModelConfig:
    """A dense decoder from the attention of each layer; see `read_dense`."""
    ffn = {"kind": "dense", "width": reader.get("intermediate_size"), "bias": bias}
    blocks = [{"attention": attention, "ffn": ffn} for attention in attentions]
    return read_model(reader, blocks, default_eps, default_tie)


def write_dense(config: ModelConfig) -> tuple[dict[str, Any], AttentionConfig, FeedForwardConfig]:
    """The common keys of a dense decoder, and the attention (the first with positions) and SwiGLU to add.

    Errors: `LayerKindError` for a routed one, `ConfigError` for latent attention.
    """
    attentions = [grouped_query(config, block) for block in config.blocks]
    attention = next((one for one in attentions if one.rope is not None), attentions[0])
    ffns = [dense_ffn(config, block) for block in config.blocks]
    return write_model(config, attention) | {"intermediate_size": ffns[0].width}, attention, ffns[0]


def write_model(config: ModelConfig, attention: AttentionConfig | MLAConfig) -> dict[str, Any]:
    """The common keys of `config.json`. `head_dim` of latent attention is its rotated part (transformers)."""
    if isinstance(attention, MLAConfig):
        num_kv_heads, head_dim = attention.num_heads, attention.rope_dim
    else:
        num_kv_heads, head_dim = attention.num_kv_heads, attention.head_dim
    data = {
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": attention.num_heads,
        "num_key_value_heads": num_kv_heads,
        "head_dim": head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": config.max_positions,
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tie_embeddings,
        "initializer_range": config.init_std,
    }
    return data | (rope_to_hf(attention.rope) if attention.rope else {})


def grouped_query(config: ModelConfig, block: BlockConfig) -> AttentionConfig:
    """The block's attention, for families without latent attention. Errors: `ConfigError` for any other."""
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


def decoder_slots(config: ModelConfig) -> list[Slot]:
    """Everything outside the feed-forward: embedding, attention, norms and head under Llama's names."""
    slots = [Slot("model.embed_tokens.weight", "embed.weight")]
    for index, block in enumerate(config.blocks):
        slots += block_slots(f"model.layers.{index}", f"blocks.{index}", block)
    slots.append(Slot("model.norm.weight", "norm.weight"))
    if not config.tie_embeddings:
        slots.append(Slot("lm_head.weight", "head.weight"))
    return slots


def block_slots(disk: str, ours: str, block: BlockConfig) -> list[Slot]:
    """One block's attention and its two norms."""
    if isinstance(block.attention, STATE_MIXERS):
        raise ConfigError("this family has attention in every layer, and no mixer with a state")
    slots = _attention_slots(f"{disk}.self_attn", f"{ours}.attention", block.attention)
    slots.append(Slot(f"{disk}.input_layernorm.weight", f"{ours}.attention_norm.weight"))
    slots.append(Slot(f"{disk}.post_attention_layernorm.weight", f"{ours}.ffn_norm.weight"))
    return slots


_LATENT = {"kv_a": "kv_a_proj_with_mqa", "kv_a_norm": "kv_a_layernorm", "kv_b": "kv_b_proj", "o": "o_proj"}
_LATENT_QUERY = {"q_a": "q_a_proj", "q_a_norm": "q_a_layernorm", "q_b": "q_b_proj"}


def _attention_slots(disk: str, ours: str, attention: AttentionConfig | MLAConfig) -> list[Slot]:
    if isinstance(attention, MLAConfig):
        names = ({"q": "q_proj"} if attention.q_rank is None else _LATENT_QUERY) | _LATENT
        return [Slot(f"{disk}.{theirs}.weight", f"{ours}.{part}.weight") for part, theirs in names.items()]
    slots = []
    for part in "qkvo":
        slots.append(Slot(f"{disk}.{part}_proj.weight", f"{ours}.{part}.weight"))
        if attention.output_bias if part == "o" else attention.qkv_bias:
            slots.append(Slot(f"{disk}.{part}_proj.bias", f"{ours}.{part}.bias"))
    if attention.qk_norm in ("head", "full"):
        slots += [Slot(f"{disk}.{part}_norm.weight", f"{ours}.{part}_norm.weight") for part in "qk"]
    if attention.sinks:
        slots.append(Slot(f"{disk}.sinks", f"{ours}.sinks"))
    return slots


def dense_slots(disk: str, ours: str, bias: bool = False) -> list[Slot]:
    """A SwiGLU's gate, up and down."""
    kinds = ("weight", "bias") if bias else ("weight",)
    return [
        Slot(f"{disk}.{part}_proj.{kind}", f"{ours}.{part}.{kind}")
        for part in ("gate", "up", "down")
        for kind in kinds
    ]


def dense_model_slots(config: ModelConfig) -> list[Slot]:
    """The whole of a dense decoder under Llama's names. Errors: `LayerKindError` for a routed one."""
    slots = decoder_slots(config)
    for index, block in enumerate(config.blocks):
        bias = dense_ffn(config, block).bias
        slots += dense_slots(f"model.layers.{index}.mlp", f"blocks.{index}.ffn", bias)
    return slots


def expert_slots(
    disk: str,
    ours: str,
    num_experts: int,
    names: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj"),
) -> list[Slot]:
    """A layer's experts, stored one by one as `{disk}.{expert}.{name}.weight`; `names`: gate, up and down."""
    gate, up, down = names
    slots = []
    for e in range(num_experts):
        slots += [
            Slot(f"{disk}.{e}.{gate}.weight", f"{ours}.gate_up.weight", expert_half(e, 0)),
            Slot(f"{disk}.{e}.{up}.weight", f"{ours}.gate_up.weight", expert_half(e, 1)),
            Slot(f"{disk}.{e}.{down}.weight", f"{ours}.down.weight", expert(e)),
        ]
    return slots


@dataclass(frozen=True)
class RoutedNames:
    """What a family calls the parts of a routed layer, below `model.layers.{n}.`; by default as Qwen3 does.

    `parts`: an expert's gate, up and down. `bias_view`: of the selection bias on disk. `float32`: whether the
    router is float32 in files of any type.
    """

    layer: str = "mlp"
    router: str = "gate.weight"
    select_bias: str = "gate.e_score_correction_bias"
    bias_view: View = whole
    float32: bool = False
    parts: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj")
    shared: str = "shared_experts"


QWEN3_NAMES = RoutedNames()


def ffn_slots(
    disk: str, ours: str, ffn: FeedForwardConfig | MoEConfig, names: RoutedNames = QWEN3_NAMES
) -> list[Slot]:
    """One layer's feed-forward, dense or routed."""
    if isinstance(ffn, FeedForwardConfig):
        return dense_slots(disk, ours)
    slots = [Slot(f"{disk}.{names.router}", f"{ours}.router.weight", float32=names.float32)]
    if ffn.router.select_bias:
        slots.append(Slot(f"{disk}.{names.select_bias}", f"{ours}.router.select_bias", names.bias_view))
    slots += expert_slots(f"{disk}.experts", f"{ours}.experts", ffn.router.num_experts, names.parts)
    if ffn.shared_width:
        slots += dense_slots(f"{disk}.{names.shared}", f"{ours}.shared")
    return slots


def moe_slots(config: ModelConfig, names: RoutedNames = QWEN3_NAMES) -> list[Slot]:
    """The whole decoder with `ffn_slots` in every layer."""
    slots = decoder_slots(config)
    for index, block in enumerate(config.blocks):
        slots += ffn_slots(f"model.layers.{index}.{names.layer}", f"blocks.{index}.ffn", block.ffn, names)
    return slots
