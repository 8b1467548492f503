"""Feed-forwards of a layer: dense ones, and experts with their router."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from coterie.config.base import Settings
from coterie.config.mixers import WIDEST as _WIDEST

_MOST_EXPERTS = 2**16  # far beyond every published model

Activation = Literal["silu", "gelu_tanh", "relu2"]


class FeedForwardConfig(Settings):
    """`down(activation(gate x) * up x)` of inner size `width`; with `silu` this is SwiGLU.

    Without a gate (`gated`) it is `down(activation(up x))`. `relu2` is the square of ReLU.
    """

    kind: Literal["dense"] = "dense"
    width: int = Field(gt=0, le=_WIDEST)
    bias: bool = False
    activation: Activation = "silu"
    gated: bool = True

    @property
    def num_matrices(self) -> int:
        """Gate, up and down, or up and down."""
        return 3 if self.gated else 2


class RouterConfig(Settings):
    """How tokens choose experts (docs/design/families.md, Routing).

    `score`: function of the logits. `score_after_topk`: choose on raw logits, score only the chosen.
    `select_bias`: a buffer added to scores for selection alone. `num_groups`/`top_groups`: choose groups
    first, by `group_score`; the others are filled with `group_fill`. `renormalize`: weights divided by their
    sum plus `renormalize_eps`, the sum being at least `renormalize_min`. `scale`: weights times this.
    `apply_to`: the weight multiplies the expert's `input` or its `output`. `input_norm_eps`: the router reads
    its input x of width D as `x / rms(x) * input_scale / sqrt(D)` with a learnt vector `input_scale`.
    `expert_scale`: the final weight of an expert is multiplied by a learnt number.
    """

    num_experts: int = Field(gt=0, le=_MOST_EXPERTS)
    top_k: int = Field(gt=0)
    score: Literal["softmax", "sigmoid"] = "softmax"
    score_after_topk: bool = False
    renormalize: bool = False
    renormalize_eps: float = Field(1e-20, ge=0)
    renormalize_min: float = Field(0.0, ge=0)
    scale: float = 1.0
    bias: bool = False
    select_bias: bool = False
    num_groups: int = Field(1, gt=0)
    top_groups: int = Field(1, gt=0)
    group_score: Literal["max", "top2sum"] = "max"
    group_fill: Literal["zero", "minus_infinity"] = "minus_infinity"
    apply_to: Literal["input", "output"] = "output"
    input_norm_eps: float | None = Field(None, gt=0)
    expert_scale: bool = False

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
    """Routed experts of inner size `expert_width`, plus one always-on expert of size `shared_width`.

    `activation`, `gated`: of both, as in `FeedForwardConfig`. `clamped`: the routed experts have gpt-oss's
    activation instead. `shared_gate`: the always-on expert's result is multiplied by sigmoid(w x), one number
    per token. `expert_norms`: the router reads the residual stream before the block's norm, the routed
    experts read it through a norm that is theirs, and their sum and the always-on expert's result are normed
    before they are added. `latent_width`: one matrix takes x to this number of values, which the routed
    experts read and write, and another takes their sum back to the model's width (None: they read x itself).
    """

    kind: Literal["moe"] = "moe"
    expert_width: int = Field(gt=0, le=_WIDEST)
    router: RouterConfig
    shared_width: int | None = Field(None, gt=0, le=_WIDEST)
    activation: Activation = "silu"
    gated: bool = True
    shared_gate: bool = False
    expert_norms: bool = False
    latent_width: int | None = Field(None, gt=0, le=_WIDEST)
    clamped: ClampedConfig | None = None
    balance: BalanceConfig = BalanceConfig()

    @property
    def num_matrices(self) -> int:
        """Of an expert: gate, up and down, or up and down."""
        return 3 if self.gated else 2

    @property
    def gate_up_alternates(self) -> bool:
        """Whether gate and up rows of the experts' first matrix alternate; else all gate rows come first."""
        return self.clamped is not None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.balance.bias_rate and not self.router.select_bias:
            raise ValueError("balance.bias_rate needs router.select_bias")
        if self.shared_gate and self.shared_width is None:
            raise ValueError("shared_gate needs shared_width")
        if self.expert_norms and self.shared_width is None:
            raise ValueError("expert_norms needs shared_width")
        if self.clamped is not None and (self.activation != "silu" or not self.gated):
            raise ValueError("clamped experts have their own activation")
        return self
