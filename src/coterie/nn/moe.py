"""The dense feed-forward and its routed counterpart.

T tokens, D width, I what experts read (D or the latent width), E experts, K chosen per token.
"""

from __future__ import annotations

from torch import Tensor, nn

from coterie.config.feed_forward import FeedForwardConfig, MoEConfig
from coterie.nn.dense_gradient import with_dense_gradient
from coterie.nn.experts import build_experts
from coterie.nn.forward_context import ForwardContext
from coterie.nn.kernels.swiglu import activated, gated
from coterie.nn.linear import Linear
from coterie.nn.norm import NormKind
from coterie.nn.recompute import recomputing
from coterie.nn.router import Router


class FeedForward(nn.Module):
    """`down(activation(gate x) * up x)` on (T, D); without a gate `down(activation(up x))`."""

    def __init__(self, width: int, config: FeedForwardConfig) -> None:
        super().__init__()
        self.activation = config.activation
        self.gate = Linear(width, config.width, bias=config.bias) if config.gated else None
        self.up = Linear(width, config.width, bias=config.bias)
        self.down = Linear(config.width, width, bias=config.bias)

    def forward(self, x_TD: Tensor) -> Tensor:
        """(T, D)."""
        up_TF = self.up(x_TD)
        if self.gate is None:
            return self.down(activated(up_TF, self.activation))
        return self.down(gated(self.gate(x_TD), up_TF, self.activation))


class MoE(nn.Module):
    """Router, experts and the optional shared expert: `sum_k w_k expert_k(x) + shared(x)` on (T, D).

    The shared expert may have a gate: `sigmoid(gate x) * shared(x)`. With `expert_norms` the result is
    `norm(sum_k w_k expert_k(norm(h))) + norm(shared(x))`, where h is the stream that x is the norm of, and
    the router reads h. Routed experts may work in a latent space:
    `latent_out(sum_k w_k expert_k(latent_in(x)))`.

    No token is dropped. Where `router.apply_to` is `input` (Llama 4) the weight multiplies what the expert
    reads. `dense_gradient`: the router also learns from the experts that it did not choose
    (`nn.dense_gradient`); it has no effect where the weight multiplies the input.
    """

    def __init__(self, width: int, config: MoEConfig, norm: NormKind) -> None:
        super().__init__()
        self.config = config
        self.router = Router(width, config.router, config.balance)
        self.experts = build_experts(width, config)
        self.shared = None
        if config.shared_width:
            kind = {"activation": config.activation, "gated": config.gated}
            shared = FeedForwardConfig.from_dict({"width": config.shared_width} | kind)
            self.shared = FeedForward(width, shared)
        self.shared_gate = Linear(width, 1) if config.shared_gate else None
        normed = config.expert_norms
        self.expert_norm = norm.of(width) if normed else None
        self.expert_post_norm = norm.of(width) if normed else None
        self.shared_post_norm = norm.of(width) if normed else None
        latent = config.latent_width
        self.latent_in = None if latent is None else Linear(width, latent)
        self.latent_out = None if latent is None else Linear(latent, width)
        self.dense_gradient = False

    def forward(
        self, x_TD: Tensor, context: ForwardContext, layer: int = 0, h_TD: Tensor | None = None
    ) -> Tensor:
        """(T, D). `layer`: this layer's index, by which steers are found and records are kept.

        `h_TD`: the stream that `x_TD` is the norm of (None: `x_TD` itself).
        """
        seen_TD = x_TD
        read_TD = x_TD
        if self.expert_norm is not None:
            seen_TD = x_TD if h_TD is None else h_TD
            read_TD = self.expert_norm(seen_TD)
        counted_T = context.valid_T if context.counted_T is None else context.counted_T
        routing = self.router(seen_TD, counted_T, context.balance_tokens, context.steers.get(layer))
        on_input = self.config.router.apply_to == "input"
        read_TI = read_TD if self.latent_in is None else self.latent_in(read_TD)
        y_TD = self.experts.mix(read_TI, routing, weigh_input=on_input)
        if self.dense_gradient and not on_input and routing.scores_TE.requires_grad:
            y_TD = with_dense_gradient(y_TD, read_TI, routing, self.experts, self.router)
        if self.latent_out is not None:
            y_TD = self.latent_out(y_TD)
        if self.expert_post_norm is not None:
            y_TD = self.expert_post_norm(y_TD)
        if self.shared is not None:
            y_TD = y_TD + self._shared(x_TD)
        if context.recorder is not None and not recomputing():
            context.recorder.note(layer, routing, seen_TD, read_TD, y_TD)
        return y_TD

    def _shared(self, x_TD: Tensor) -> Tensor:
        """What the always-on expert adds."""
        assert self.shared is not None
        y_TD = self.shared(x_TD)
        if self.shared_gate is not None:
            y_TD = self.shared_gate(x_TD).sigmoid() * y_TD
        return y_TD if self.shared_post_norm is None else self.shared_post_norm(y_TD)


def feed_forward(width: int, config: FeedForwardConfig | MoEConfig, norm: NormKind) -> FeedForward | MoE:
    """The feed-forward of a block, dense or routed; `norm`: the kind of the model's norms."""
    return MoE(width, config, norm) if isinstance(config, MoEConfig) else FeedForward(width, config)
