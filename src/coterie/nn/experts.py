"""Expert weights, and the layers of experts that a mixture sends its tokens through.

T tokens, R routed rows sorted by expert, E experts, K chosen per token, I input features, O output features,
D the width that experts read and write, F expert width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn

from coterie.config.feed_forward import Activation, ClampedConfig, MoEConfig
from coterie.nn.dispatch import LOCAL, Dispatcher
from coterie.nn.kernels import choose
from coterie.nn.kernels.adapted import adapted_mixture
from coterie.nn.kernels.grouped import expert_product
from coterie.nn.kernels.swiglu import activated, gated, swiglu_experts
from coterie.nn.kernels.weights import Counts, ExpertWeights
from coterie.nn.linear import drawn
from coterie.nn.router import Routing


class ExpertLinear(nn.Module):
    """One linear layer per expert: weight `(E, out, in)`, bias `(E, out)`.

    Adapted, quantised and partly trained forms override only `weights` and `effective_weight`.
    """

    def __init__(self, num_experts: int, in_features: int, out_features: int, bias: bool = False) -> None:
        super().__init__()
        self.num_experts = num_experts
        self.in_features = in_features
        self.out_features = out_features
        self.weight = drawn(num_experts, out_features, in_features)
        self.bias = nn.Parameter(torch.zeros(num_experts, out_features)) if bias else None

    def weights(self, dtype: torch.dtype) -> ExpertWeights:
        """What a product with rows of `dtype` reads of this layer."""
        return ExpertWeights(self.weight.to(dtype), self.bias)

    def effective_weight(self) -> Tensor:
        """The `(E, out, in)` weight that the forward pass is equal to."""
        return self.weight

    def forward(self, x_RI: Tensor, counts: Counts) -> Tensor:
        """`(R, out)` for rows sorted by expert; `counts` are the rows per expert and sum to R."""
        return expert_product(x_RI, self.weights(x_RI.dtype), counts)

    def extra_repr(self) -> str:
        """Number of experts and features."""
        return f"{self.num_experts} experts, in_features={self.in_features}, out_features={self.out_features}"


class ExpertsOnDisk(Protocol):
    """Where the weights of a layer's experts come from that are not in memory; `nn.stored_experts`."""

    def on_rows(self, experts: RoutedExperts, x_RD: Tensor, counts: Counts) -> Tensor:
        """(R, D) for rows sorted by expert."""
        ...


class RoutedExperts(nn.Module):
    """E feed-forwards `down(activate(first(x)))`; subclasses define `activate`.

    The first matrix is `gate_up` (E, 2F, D), or `up` (E, F, D) for experts without a gate. `mix` is the one
    place where a mixture's products are chosen. The dispatcher is a plain attribute, so that experts spread
    over processes bring their own. `on_disk`: what reads weights that are in files (None: all in memory).
    `observer`: called with what both matrices of each expert are multiplied with, (R, D) and (R, F), and the
    rows per expert.
    """

    is_swiglu: bool = False  # whether `activate` is `silu(gate) * up` with the gate rows first

    def __init__(
        self,
        num_experts: int,
        width: int,
        expert_width: int,
        bias: bool = False,
        dispatcher: Dispatcher = LOCAL,
        has_gate: bool = True,
    ) -> None:
        super().__init__()
        self.first_name = "gate_up" if has_gate else "up"
        rows = 2 * expert_width if has_gate else expert_width
        setattr(self, self.first_name, ExpertLinear(num_experts, width, rows, bias=bias))
        self.down = ExpertLinear(num_experts, expert_width, width, bias=bias)
        self.dispatcher = dispatcher
        self.on_disk: ExpertsOnDisk | None = None
        self.observer: Callable[[Tensor, Tensor, Counts], None] | None = None

    @property
    def first(self) -> ExpertLinear:
        """The matrices that read x: gate and up in one, or up alone."""
        layer: ExpertLinear = getattr(self, self.first_name)
        return layer

    def activate(self, first_RO: Tensor) -> Tensor:
        """(R, F) from the first product (R, 2 F), or (R, F) without a gate."""
        raise NotImplementedError

    def mix(self, x_TD: Tensor, routing: Routing, weigh_input: bool = False) -> Tensor:
        """(T, D): `sum_k w_k expert_k(x)`, or with `weigh_input` `sum_k expert_k(w_k x)` (Llama 4)."""
        weights_TK = routing.weights_TK.to(x_TD.dtype)
        plan = self.dispatcher.plan(routing.ids_TK, self.first.num_experts)
        if self.on_disk is not None:
            x_RD = self.dispatcher.dispatch(x_TD, weights_TK if weigh_input else None, plan)
            y_RD = self.on_disk.on_rows(self, x_RD, plan.counts)
            return self.dispatcher.combine(y_RD, None if weigh_input else weights_TK, plan)
        first, down = self.first.weights(x_TD.dtype), self.down.weights(x_TD.dtype)
        if not weigh_input:
            kind = choose.mixture(x_TD, routing.ids_TK.numel(), self.is_swiglu, first, down)
            if kind == "adapted":
                return adapted_mixture(x_TD, weights_TK, first, down, self.dispatcher, plan)
        x_RD = self.dispatcher.dispatch(x_TD, weights_TK if weigh_input else None, plan)
        y_RD = self.on_rows(x_RD, first, down, plan.counts)
        return self.dispatcher.combine(y_RD, None if weigh_input else weights_TK, plan)

    def forward(self, x_RD: Tensor, counts: Counts) -> Tensor:
        """`(R, D)` for rows that are already sorted by expert."""
        return self.on_rows(x_RD, self.first.weights(x_RD.dtype), self.down.weights(x_RD.dtype), counts)

    def on_rows(self, x_RD: Tensor, first: ExpertWeights, down: ExpertWeights, counts: Counts) -> Tensor:
        """The same with these weights."""
        if self.observer is None and choose.expert_layer(x_RD, self.is_swiglu, first, down) == "swiglu":
            assert isinstance(first.matrix, Tensor) and isinstance(down.matrix, Tensor)
            return swiglu_experts(x_RD, first.matrix, down.matrix, counts)
        hidden_RF = self.activate(expert_product(x_RD, first, counts))
        if self.observer is not None:
            self.observer(x_RD, hidden_RF, counts)
        return expert_product(hidden_RF, down, counts)


class Experts(RoutedExperts):
    """`down(activation(gate(x)) * up(x))`, with gate and up in one product (gate rows first).

    Without a gate (`has_gate`): `down(activation(up(x)))`.
    """

    def __init__(
        self,
        num_experts: int,
        width: int,
        expert_width: int,
        activation: Activation = "silu",
        dispatcher: Dispatcher = LOCAL,
        has_gate: bool = True,
    ) -> None:
        super().__init__(num_experts, width, expert_width, dispatcher=dispatcher, has_gate=has_gate)
        self.activation = activation
        self.is_swiglu = activation == "silu" and has_gate

    def activate(self, first_RO: Tensor) -> Tensor:
        """`activation(gate) * up`, or `activation(up)`."""
        if self.first_name == "up":
            return activated(first_RO, self.activation)
        gate_RF, up_RF = first_RO.chunk(2, dim=-1)
        return gated(gate_RF, up_RF, self.activation)


class ClampedExperts(RoutedExperts):
    """gpt-oss experts: `down((up + 1) * gate * sigmoid(alpha * gate))`, biased, gate and up clamped.

    Gate is at most `limit`, and up is between `-limit` and `limit`. Unlike in `Experts`, gate and up rows of
    `gate_up` (E, 2F, D) alternate, gate first: the published tensors have this order, so that the parameters
    can be views of them.
    """

    def __init__(
        self,
        num_experts: int,
        width: int,
        expert_width: int,
        config: ClampedConfig,
        dispatcher: Dispatcher = LOCAL,
    ) -> None:
        super().__init__(num_experts, width, expert_width, bias=True, dispatcher=dispatcher)
        self.config = config

    def activate(self, first_RO: Tensor) -> Tensor:
        """`(up + 1) * gate * sigmoid(alpha * gate)` of the clamped halves."""
        gate_RF, up_RF = first_RO.unflatten(-1, (-1, 2)).unbind(-1)
        limit = self.config.limit
        gate_RF, up_RF = gate_RF.clamp(max=limit), up_RF.clamp(-limit, limit)
        return (up_RF + 1) * gate_RF * torch.sigmoid(self.config.alpha * gate_RF)


def build_experts(width: int, config: MoEConfig, dispatcher: Dispatcher = LOCAL) -> RoutedExperts:
    """The experts of one mixture, of the kind that its config says; `width` of the model."""
    size = config.router.num_experts, config.latent_width or width, config.expert_width
    if config.clamped is not None:
        return ClampedExperts(*size, config.clamped, dispatcher)
    return Experts(*size, config.activation, dispatcher, config.gated)
