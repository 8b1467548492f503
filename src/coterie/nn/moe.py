"""The dense feed-forward and its routed counterpart.

T tokens, D width, F inner width, E experts, K chosen, R = T * K rows.
"""

from __future__ import annotations

from torch import Tensor, nn

from coterie.config.model import FeedForwardConfig, MoEConfig
from coterie.nn.clamped import ClampedExperts
from coterie.nn.dense_gradient import with_dense_gradient
from coterie.nn.dispatch import LocalDispatcher
from coterie.nn.experts import Experts, swiglu
from coterie.nn.forward_context import ForwardContext
from coterie.nn.linear import Linear
from coterie.nn.lora_experts_fused import adapted_moe
from coterie.nn.router import Router


class FeedForward(nn.Module):
    """SwiGLU `down(silu(gate x) * up x)` on (T, D)."""

    def __init__(self, width: int, config: FeedForwardConfig) -> None:
        super().__init__()
        self.gate = Linear(width, config.width, bias=config.bias)
        self.up = Linear(width, config.width, bias=config.bias)
        self.down = Linear(config.width, width, bias=config.bias)

    def forward(self, x_TD: Tensor) -> Tensor:
        return self.down(swiglu(self.gate(x_TD), self.up(x_TD)))


class MoE(nn.Module):
    """Router, dispatcher, experts and the optional shared expert: `sum_k w_k expert_k(x) + shared(x)` on (T,
    D).

    No token is dropped. Where `router.apply_to` is `input` (Llama 4) the weight multiplies what the expert
    reads. `dense_gradient`: the router also learns from the experts that it did not choose
    (`nn.dense_gradient`); it has no meaning where the weight multiplies the input.
    """

    def __init__(self, width: int, config: MoEConfig) -> None:
        super().__init__()
        self.config = config
        self.router = Router(width, config.router, config.balance)
        num_experts = config.router.num_experts
        if config.clamped is not None:
            self.experts: Experts | ClampedExperts = ClampedExperts(
                num_experts, width, config.expert_width, config.clamped
            )
        else:
            self.experts = Experts(num_experts, width, config.expert_width)
        self.shared = (
            FeedForward(width, FeedForwardConfig(width=config.shared_width)) if config.shared_width else None
        )
        self.dispatcher = LocalDispatcher()
        self.dense_gradient = False

    def forward(self, x_TD: Tensor, context: ForwardContext, layer: int = 0) -> Tensor:
        counted_T = context.valid_T if context.counted_T is None else context.counted_T
        routing = self.router(x_TD, counted_T, context.balance_tokens, context.steers.get(layer))
        weights_TK = routing.weights_TK.to(x_TD.dtype)
        on_input = self.config.router.apply_to == "input"
        y_TD = None if on_input else adapted_moe(x_TD, routing.ids_TK, weights_TK, self.experts)
        if y_TD is None:
            y_TD = self._composed(x_TD, routing.ids_TK, weights_TK, on_input)
        if self.dense_gradient and not on_input and routing.scores_TE.requires_grad:
            y_TD = with_dense_gradient(y_TD, x_TD, routing, self.experts, self.config.router)
        if self.shared is not None:
            y_TD = y_TD + self.shared(x_TD)
        if context.recorder is not None:
            context.recorder.note(layer, routing, x_TD, y_TD)
        return y_TD

    def _composed(self, x_TD: Tensor, ids_TK: Tensor, weights_TK: Tensor, on_input: bool) -> Tensor:
        x_RD, counts, meta = self.dispatcher.dispatch(
            x_TD, ids_TK, self.config.router.num_experts, weights_TK if on_input else None
        )
        y_RD = self.experts(x_RD, counts)
        return self.dispatcher.combine(y_RD, None if on_input else weights_TK, meta)
