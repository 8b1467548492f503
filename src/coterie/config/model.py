"""What a Transformer is, as data: each difference between families is a field, never a branch on a name."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from coterie.config.base import Settings

# Far beyond every published model: a damaged config.json is refused before anything is built from it.
_WIDEST, _MOST_IDS, _MOST_EXPERTS, _MOST_IN_ALL = 2**20, 2**26, 2**16, 2**21


class RopeScaling(Settings):
    """Frequency scaling for long contexts (docs/design/families.md, Rotary positions).

    `linear`: divide all by `factor`. `llama3`: by wavelength, `low_freq_factor` and `high_freq_factor`.
    `yarn`: a ramp between the dimensions that turn `beta_fast` and `beta_slow` times in the original context,
    rounded outwards where `truncate`; cos and sin are multiplied by `attention_factor`, by default g(mscale)
    / g(mscale_all_dim) where both are given and else g(1), with g(m) = 0.1 m ln(factor) + 1. `MLAConfig` also
    multiplies its softmax scale by g(mscale_all_dim)^2.
    """

    kind: Literal["llama3", "linear", "yarn"]
    factor: float = Field(gt=0)
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_positions: int = Field(8192, gt=0)
    beta_fast: float = Field(32.0, gt=0)
    beta_slow: float = Field(1.0, gt=0)
    truncate: bool = True
    mscale: float | None = None
    mscale_all_dim: float | None = None
    attention_factor: float | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        only_yarn = ("beta_fast", "beta_slow", "truncate", "mscale", "mscale_all_dim", "attention_factor")
        foreign = [name for name in only_yarn if getattr(self, name) != type(self).model_fields[name].default]
        if self.kind != "yarn" and foreign:
            raise ValueError(f"'{foreign[0]}' belongs to kind 'yarn', not to '{self.kind}'")
        return self


class RopeConfig(Settings):
    """Rotary positions. `half` rotates (x[j], x[j + D/2]); `pairs` rotates (x[2j], x[2j + 1]) in fp32."""

    theta: float = Field(10000.0, gt=0)
    style: Literal["half", "pairs"] = "half"
    scaling: RopeScaling | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.scaling is not None and self.scaling.kind == "yarn" and self.theta <= 1:
            raise ValueError("yarn scaling needs theta above 1")
        return self


class TemperatureConfig(Settings):
    """Queries are multiplied by `log1p(floor((position + 1) / floor_scale)) * scale + 1`.

    Llama 4 does so in its layers without positions.
    """

    floor_scale: int = Field(8192, gt=0)
    scale: float = 0.1


class AttentionConfig(Settings):
    """Grouped-query attention of one layer.

    `rope=None` is a layer without positions. `mask`: `causal` j <= i; `sliding` i - window < j <= i;
    `chunked` j <= i in the same chunk of `window` positions. `qk_norm`: `head` is an RMSNorm with weight per
    head before rope, `full` an RMSNorm over the whole projection before the split, `weightless` an RMS per
    head after rope. `sinks`: one learnt score per query head joins the softmax without a value.
    """

    kind: Literal["gqa"] = "gqa"
    num_heads: int = Field(gt=0, le=_WIDEST)
    num_kv_heads: int = Field(gt=0, le=_WIDEST)
    head_dim: int = Field(gt=0, le=_WIDEST)
    rope: RopeConfig | None = RopeConfig()
    mask: Literal["causal", "sliding", "chunked"] = "causal"
    window: int | None = Field(None, gt=0)
    qk_norm: Literal["none", "head", "full", "weightless"] = "none"
    qkv_clip: float | None = Field(None, gt=0)
    qkv_bias: bool = False
    output_bias: bool = False
    temperature: TemperatureConfig | None = None
    sinks: bool = False

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
        if self.sinks and self.mask == "chunked":
            raise ValueError("sinks go with causal and sliding masks only")
        return self


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


class FeedForwardConfig(Settings):
    """SwiGLU `down(silu(gate x) * up x)` of inner size `width`."""

    kind: Literal["dense"] = "dense"
    width: int = Field(gt=0, le=_WIDEST)
    bias: bool = False


class RouterConfig(Settings):
    """How tokens choose experts (docs/design/families.md, Routing).

    `score`: function of the logits. `score_after_topk`: choose on raw logits, score only the chosen.
    `select_bias`: a buffer added to scores for selection alone. `num_groups`/`top_groups`: choose groups
    first, by `group_score`; the others are filled with `group_fill`. `renormalize`: weights divided by their
    sum. `scale`: weights times this. `apply_to`: the weight multiplies the expert's `input` or its `output`.
    """

    num_experts: int = Field(gt=0, le=_MOST_EXPERTS)
    top_k: int = Field(gt=0)
    score: Literal["softmax", "sigmoid"] = "softmax"
    score_after_topk: bool = False
    renormalize: bool = False
    scale: float = 1.0
    bias: bool = False
    select_bias: bool = False
    num_groups: int = Field(1, gt=0)
    top_groups: int = Field(1, gt=0)
    group_score: Literal["max", "top2sum"] = "max"
    group_fill: Literal["zero", "minus_infinity"] = "minus_infinity"
    apply_to: Literal["input", "output"] = "output"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.top_k > self.num_experts:
            raise ValueError(f"top_k {self.top_k} is larger than num_experts {self.num_experts}")
        if self.num_experts % self.num_groups:
            raise ValueError(
                f"num_experts {self.num_experts} must be a multiple of num_groups {self.num_groups}"
            )
        if self.top_groups > self.num_groups:
            raise ValueError(f"top_groups {self.top_groups} is larger than num_groups {self.num_groups}")
        if self.top_k > self.top_groups * (self.num_experts // self.num_groups):
            raise ValueError(f"top_k {self.top_k} experts do not fit in {self.top_groups} group(s)")
        if self.group_score == "top2sum" and self.num_groups > 1 and self.num_experts // self.num_groups < 2:
            raise ValueError("group_score 'top2sum' needs at least two experts per group")
        return self


class BalanceConfig(Settings):
    """What keeps experts evenly used in training.

    `loss_coef`: global-batch load-balancing loss E * sum_e f_e P_e (1 when uniform) per layer. `z_loss_coef`:
    mean(logsumexp(logits)^2). `bias_rate`: step of the loss-free selection bias (needs `select_bias`).
    """

    loss_coef: float = Field(0.0, ge=0)
    z_loss_coef: float = Field(0.0, ge=0)
    bias_rate: float = Field(0.0, ge=0)


class ClampedConfig(Settings):
    """Experts of gpt-oss: with biases, and `(up + 1) * gate * sigmoid(alpha * gate)` as activation.

    `limit`: gate <= limit and |up| <= limit.
    """

    alpha: float = 1.702
    limit: float = Field(7.0, gt=0)


class MoEConfig(Settings):
    """Routed SwiGLU experts of inner size `expert_width`, plus one always-on SwiGLU of size `shared_width`.

    `clamped`: the routed experts have gpt-oss's activation instead.
    """

    kind: Literal["moe"] = "moe"
    expert_width: int = Field(gt=0, le=_WIDEST)
    router: RouterConfig
    shared_width: int | None = Field(None, gt=0, le=_WIDEST)
    clamped: ClampedConfig | None = None
    balance: BalanceConfig = BalanceConfig()

    @property
    def gate_up_alternates(self) -> bool:
        """Whether gate and up rows of the experts' first matrix alternate; else all gate rows come first."""
        return self.clamped is not None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.balance.bias_rate and not self.router.select_bias:
            raise ValueError("balance.bias_rate needs router.select_bias")
        return self


class BlockConfig(Settings):
    """One pre-norm residual block: attention, then a dense or a routed feed-forward."""

    attention: AttentionConfig | MLAConfig = Field(discriminator="kind")
    ffn: FeedForwardConfig | MoEConfig = Field(discriminator="kind")

    @model_validator(mode="before")
    @classmethod
    def _grouped_query_by_default(cls, data: Any) -> Any:
        attention = data.get("attention") if isinstance(data, dict) else None
        if isinstance(attention, dict) and "kind" not in attention:
            return data | {"attention": {"kind": "gqa"} | attention}
        return data


class ModelConfig(Settings):
    """A whole model. `family`: Hugging Face `model_type`. `extra`: unknown keys of its `config.json`.

    `num_mtp_layers`: layers for multi-token prediction after the last block, each with the last block's
    settings. `norm_rounding`: RMSNorm rounds to the activations' dtype before or after its weight
    (docs/design/families.md).
    """

    family: str
    vocab_size: int = Field(gt=0, le=_MOST_IDS)
    width: int = Field(gt=0, le=_WIDEST)
    blocks: tuple[BlockConfig, ...] = Field(min_length=1)
    max_positions: int = Field(gt=0, le=2**40)
    norm_eps: float = Field(1e-6, gt=0)
    norm_rounding: Literal["before_weight", "after_weight"] = "before_weight"
    tie_embeddings: bool = False
    init_std: float = Field(0.02, gt=0)
    num_mtp_layers: int = Field(0, ge=0, le=1000)
    extra: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> Self:
        experts = sum(moe.router.num_experts for _, moe in self.moe_layers())
        if experts > _MOST_IN_ALL:
            raise ValueError(f"{experts:,} experts in {self.num_layers:,} layers; at most {_MOST_IN_ALL:,}")
        return self

    @property
    def num_layers(self) -> int:
        return len(self.blocks)

    @property
    def is_moe(self) -> bool:
        return self.first_moe is not None

    @property
    def first_moe(self) -> MoEConfig | None:
        """The first layer's experts; None for a dense model."""
        return next((moe for _, moe in self.moe_layers()), None)

    def moe_layers(self) -> list[tuple[int, MoEConfig]]:
        """The layers with experts, in order: (index of the block, its feed-forward)."""
        return [(i, block.ffn) for i, block in enumerate(self.blocks) if isinstance(block.ffn, MoEConfig)]
