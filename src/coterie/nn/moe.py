"""The dense feed-forward and its routed counterpart.

T tokens, D width, E experts, K chosen per token.
"""

from __future__ import annotations

from torch import Tensor, nn

from coterie.config.model import FeedForwardConfig, MoEConfig
from coterie.nn.dense_gradient import with_dense_gradient
from coterie.nn.experts import build_experts
from coterie.nn.forward_context import ForwardContext
from coterie.nn.kernels.swiglu import gated
from coterie.nn.linear import Linear
from coterie.nn.recompute import recomputing
from coterie.nn.router import Router


class FeedForward(nn.Module):
    """`down(activation(gate x) * up x)` on (T, D)."""

    def __init__(self, width: int, config: FeedForwardConfig) -> None:
        super().__init__()
        self.activation = config.activation
        self.gate = Linear(width, config.width, bias=config.bias)
        self.up = Linear(width, config.width, bias=config.bias)
        self.down = Linear(config.width, width, bias=config.bias)

    def forward(self, x_TD: Tensor) -> Tensor:
        """(T, D)."""
        return self.down(gated(self.gate(x_TD), self.up(x_TD), self.activation))


class MoE(nn.Module):
    """Router, experts and the optional shared expert: `sum_k w_k expert_k(x) + shared(x)` on (T, D).

    The shared expert may have a gate: `sigmoid(gate x) * shared(x)`.

    No token is dropped. Where `router.apply_to` is `input` (Llama 4) the weight multiplies what the expert
    reads. `dense_gradient`: the router also learns from the experts that it did not choose
    (`nn.dense_gradient`); it has no effect where the weight multiplies the input.
    """

    def __init__(self, width: int, config: MoEConfig) -> None:
        super().__init__()
        self.config = config
        self.router = Router(width, config.router, config.balance)
        self.experts = build_experts(width, config)
        self.shared = None
        if config.shared_width:
            shared = FeedForwardConfig(width=config.shared_width, activation=config.activation)
            self.shared = FeedForward(width, shared)
        self.shared_gate = Linear(width, 1) if config.shared_gate else None
        self.dense_gradient = False

    def forward(self, x_TD: Tensor, context: ForwardContext, layer: int = 0) -> Tensor:
        """(T, D). `layer`: this layer's index, by which steers are found and records are kept."""
        counted_T = context.valid_T if context.counted_T is None else context.counted_T
        routing = self.router(x_TD, counted_T, context.balance_tokens, context.steers.get(layer))
        on_input = self.config.router.apply_to == "input"
        y_TD = self.experts.mix(x_TD, routing, weigh_input=on_input)
        if self.dense_gradient and not on_input and routing.scores_TE.requires_grad:
            y_TD = with_dense_gradient(y_TD, x_TD, routing, self.experts, self.config.router)
        if self.shared is not None:
            shared_TD = self.shared(x_TD)
            if self.shared_gate is not None:
                shared_TD = self.shared_gate(x_TD).sigmoid() * shared_TD
            y_TD = y_TD + shared_TD
        if context.recorder is not None and not recomputing():
            context.recorder.note(layer, routing, x_TD, y_TD)
        return y_TD
