"""What a Transformer is, as data: each difference between families is a field, never a branch on a name."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from coterie.config.base import Settings
from coterie.config.feed_forward import FeedForwardConfig, MoEConfig
from coterie.config.mixers import STATE_MIXERS, DeltaNetConfig, Mamba2Config, ShortConvConfig
from coterie.config.mixers import WIDEST as _WIDEST
from coterie.config.positions import RopeConfig, TemperatureConfig

# Far beyond every published model: a damaged config.json is refused before anything is built from it.
_MOST_IDS, _MOST_IN_ALL = 2**26, 2**21


class AttentionConfig(Settings):
    """Grouped-query attention of one layer.

    `rope=None` is a layer without positions. `mask`: `causal` j <= i; `sliding` i - window < j <= i;
    `chunked` j <= i in the same chunk of `window` positions. `qk_norm`: `head` is an RMSNorm with weight per
    head before rope, `head_after` the same after rope, `full` an RMSNorm over the whole projection before the
    split, `weightless` an RMS per head after rope, `weightless_before` the same before rope. `value_norm`: an
    RMS without weight per head of the values. `scale`: factor of the scores (None: head_dim^-1/2), times
    `query_factor`. `score_cap` c: scores become c tanh(score / c). `gate`: the result is multiplied by
    sigmoid(gate x), number by number (`full`) or `head` by head. `sinks`: one learnt score per query head
    joins the softmax without a value. `keys_as_values`: values are the key projection, before the keys' norm
    and rope. `keys_of`: the earlier layer whose keys and values this one uses, which then has no projections.
    """

    kind: Literal["gqa"] = "gqa"
    num_heads: int = Field(gt=0, le=_WIDEST)
    num_kv_heads: int = Field(gt=0, le=_WIDEST)
    head_dim: int = Field(gt=0, le=_WIDEST)
    rope: RopeConfig | None = RopeConfig()
    mask: Literal["causal", "sliding", "chunked"] = "causal"
    window: int | None = Field(None, gt=0)
    qk_norm: Literal["none", "head", "head_after", "full", "weightless", "weightless_before"] = "none"
    value_norm: bool = False
    scale: float | None = Field(None, gt=0)
    query_factor: float = Field(1.0, gt=0)
    score_cap: float | None = Field(None, gt=0)
    gate: Literal["none", "full", "head"] = "none"
    qkv_clip: float | None = Field(None, gt=0)
    qkv_bias: bool = False
    output_bias: bool = False
    temperature: TemperatureConfig | None = None
    sinks: bool = False
    keys_as_values: bool = False
    keys_of: int | None = Field(None, ge=0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads {self.num_heads} must be a multiple of num_kv_heads {self.num_kv_heads}"
            )
        if self.rope is not None and self.head_dim % 2:
            raise ValueError(f"head_dim {self.head_dim} must be even for rotary positions")
        if (self.mask != "causal") != (self.window is not None):
            raise ValueError("sliding and chunked masks need 'window', causal ones take none")
        if (self.sinks or self.score_cap is not None) and self.mask == "chunked":
            raise ValueError("sinks and capped scores go with causal and sliding masks only")
        if self.rope is not None:
            self.rope.check_width(self.head_dim)
        if self.keys_of is not None and (self.keys_as_values or self.qk_norm == "full"):
            raise ValueError("keys_of goes without keys_as_values and without qk_norm 'full'")
        return self

    @property
    def softmax_scale(self) -> float:
        """What scores are multiplied by before the softmax."""
        return (self.head_dim**-0.5 if self.scale is None else self.scale) * self.query_factor


class MLAConfig(Settings):
    """Multi-head latent attention of one layer (DeepSeek; docs/design/families.md).

    Keys and values of all heads come from one normed latent of `kv_rank` numbers and one rotated key of
    `rope_dim` that the heads share; only these are cached. A query or key head is `nope_dim` plain numbers,
    then `rope_dim` rotated ones. `q_rank`: width of the queries' normed latent (None: one full matrix).
    `latent_eps`: of the two norms.
    """

    kind: Literal["mla"] = "mla"
    num_heads: int = Field(gt=0, le=_WIDEST)
    q_rank: int | None = Field(None, gt=0, le=_WIDEST)
    kv_rank: int = Field(gt=0, le=_WIDEST)
    nope_dim: int = Field(gt=0, le=_WIDEST)
    rope_dim: int = Field(gt=0, multiple_of=2, le=_WIDEST)
    value_dim: int = Field(gt=0, le=_WIDEST)
    rope: RopeConfig = RopeConfig(style="pairs")
    latent_eps: float = Field(1e-6, gt=0)
    temperature: TemperatureConfig | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        self.rope.check_width(self.rope_dim)
        return self

    @property
    def head_dim(self) -> int:
        """Width of one query or key head."""
        return self.nope_dim + self.rope_dim

    @property
    def mask(self) -> Literal["causal"]:
        return "causal"

    @property
    def window(self) -> None:
        return None


Mixer = AttentionConfig | MLAConfig | DeltaNetConfig | ShortConvConfig | Mamba2Config


class BlockConfig(Settings):
    """One residual block: attention or another mixer of the sequence, then a dense or a routed feed-forward.

    Either may be missing (None), not both.
    `norms`: where each of the two has its norm. `pre`: h + f(norm h); `post`: h + norm(f(h)); `sandwich`: h +
    post_norm(f(norm h)). `post_norm_eps`: of the norms after (None: the model's). `per_layer_width`: width of
    the input that each token has for each layer (`nn.per_layer`), the same in all layers (None: no such
    input). `output_scale`: the block's result is multiplied by a stored number, which is not trained.
    """

    attention: Annotated[Mixer, Field(discriminator="kind")] | None
    ffn: Annotated[FeedForwardConfig | MoEConfig, Field(discriminator="kind")] | None
    norms: Literal["pre", "post", "sandwich"] = "pre"
    post_norm_eps: float | None = Field(None, gt=0)
    per_layer_width: int | None = Field(None, gt=0, le=_WIDEST)
    output_scale: bool = False

    @model_validator(mode="before")
    @classmethod
    def _grouped_query_by_default(cls, data: Any) -> Any:
        attention = data.get("attention") if isinstance(data, dict) else None
        if isinstance(attention, dict) and "kind" not in attention:
            return data | {"attention": {"kind": "gqa"} | attention}
        return data

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.attention is None and self.ffn is None:
            raise ValueError("a block needs 'attention' or 'ffn'")
        if self.per_layer_width is not None and not self.is_whole:
            raise ValueError("per_layer_width goes with both 'attention' and 'ffn'")
        return self

    @property
    def is_whole(self) -> bool:
        """Whether it has both parts."""
        return self.attention is not None and self.ffn is not None


class ModelConfig(Settings):
    """A whole model. `family`: Hugging Face `model_type`. `extra`: unknown keys of its `config.json`.

    `num_mtp_layers`: layers for multi-token prediction after the last block, each with the last block's
    settings. `norm_rounding`: RMSNorm rounds to the activations' dtype before or after its weight
    (docs/design/families.md). `norm_plus_one`: norms multiply by 1 + weight; `final_norm_plus_one`: the last
    norm too (None: as the others). `embed_scale` multiplies the embeddings, itself rounded to the
    activations' dtype, and `embed_norm` is an RMS without weight on them. `residual_scale` multiplies what
    attention and feed-forward add. `logit_scale` multiplies the scores of tokens; `logit_cap` c: scores
    become c tanh(score / c).
    """

    family: str
    vocab_size: int = Field(gt=0, le=_MOST_IDS)
    width: int = Field(gt=0, le=_WIDEST)
    blocks: tuple[BlockConfig, ...] = Field(min_length=1)
    max_positions: int = Field(gt=0, le=2**40)
    norm_eps: float = Field(1e-6, gt=0)
    norm_rounding: Literal["before_weight", "after_weight"] = "before_weight"
    norm_plus_one: bool = False
    final_norm_plus_one: bool | None = None
    embed_scale: float = Field(1.0, gt=0)
    embed_norm: bool = False
    residual_scale: float = Field(1.0, gt=0)
    logit_scale: float = Field(1.0, gt=0)
    logit_cap: float | None = Field(None, gt=0)
    tie_embeddings: bool = False
    init_std: float = Field(0.02, gt=0)
    num_mtp_layers: int = Field(0, ge=0, le=1000)
    extra: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> Self:
        experts = sum(moe.router.num_experts for _, moe in self.moe_layers())
        if experts > _MOST_IN_ALL:
            raise ValueError(f"{experts:,} experts in {self.num_layers:,} layers; at most {_MOST_IN_ALL:,}")
        if len({block.per_layer_width for block in self.blocks}) > 1:
            raise ValueError("per_layer_width must be the same in all layers")
        alone = self.per_layer_width is not None or self.key_sources or self.blocks[-1].output_scale
        if self.num_mtp_layers and alone:
            raise ValueError(
                "per_layer_width, keys_of and output_scale go without layers for multi-token prediction"
            )
        for index, block in enumerate(self.blocks):
            if isinstance(block.attention, AttentionConfig):
                self._check_keys(index, block.attention)
        if len(self._rope_switches) > 1:
            raise ValueError("longrope: all layers need the same original context")
        return self

    def _check_keys(self, index: int, own: AttentionConfig) -> None:
        if own.keys_of is None:
            return
        source = self.blocks[own.keys_of].attention if own.keys_of < index else None
        if not isinstance(source, AttentionConfig) or source.keys_of is not None:
            raise ValueError(f"layer {index}: keys_of must be an earlier layer that has its own keys")
        for name in ("mask", "window", "num_kv_heads", "head_dim"):
            if getattr(source, name) != getattr(own, name):
                raise ValueError(f"layer {index}: '{name}' is unlike that of layer {own.keys_of} (keys_of)")

    @property
    def num_layers(self) -> int:
        return len(self.blocks)

    @property
    def attentions(self) -> list[AttentionConfig | MLAConfig]:
        """Those of the layers that attend to kept keys, in order; other mixers keep a state."""
        kinds = (AttentionConfig, MLAConfig)
        return [block.attention for block in self.blocks if isinstance(block.attention, kinds)]

    @property
    def key_sources(self) -> frozenset[int]:
        """The layers whose keys and values later layers use too."""
        plain = (block.attention for block in self.blocks if isinstance(block.attention, AttentionConfig))
        return frozenset(a.keys_of for a in plain if a.keys_of is not None)

    @property
    def per_layer_width(self) -> int | None:
        """Width of each token's input for each layer; None where there is none."""
        return self.blocks[0].per_layer_width

    @property
    def has_states(self) -> bool:
        """Whether a layer keeps a state of fixed size, which cannot be cut back to fewer tokens."""
        return any(isinstance(block.attention, STATE_MIXERS) for block in self.blocks)

    @property
    def is_moe(self) -> bool:
        return self.first_moe is not None

    @property
    def first_moe(self) -> MoEConfig | None:
        """The first layer's experts; None for a dense model."""
        return next((moe for _, moe in self.moe_layers()), None)

    @property
    def rope_switch(self) -> int | None:
        """The length beyond which keys rotate by other frequencies (`longrope`); None: never."""
        return next(iter(self._rope_switches), None)

    @property
    def _rope_switches(self) -> set[int]:
        ropes = [attention.rope for attention in self.attentions]
        scalings = [rope.scaling for rope in ropes if rope is not None and rope.scaling is not None]
        return {scaling.original_max_positions for scaling in scalings if scaling.kind == "longrope"}

    def moe_layers(self) -> list[tuple[int, MoEConfig]]:
        """The layers with experts, in order: (index of the block, its feed-forward)."""
        return [(i, block.ffn) for i, block in enumerate(self.blocks) if isinstance(block.ffn, MoEConfig)]
