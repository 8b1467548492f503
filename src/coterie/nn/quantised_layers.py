"""Frozen layers whose weight is kept in 8 or 4 bits and widened matrix by matrix, in the forward and the
backward pass.

Nothing wide outlives one product: what autograd keeps are the codes. R routed rows sorted by expert, E
experts, I input and O output features, T tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from coterie.nn.autograd import GradFunction
from coterie.nn.experts import Counts, ExpertLinear, segments
from coterie.nn.linear import Linear, product
from coterie.nn.quantised_tensor import QuantisedTensor


def matrix_of(weight: Tensor | QuantisedTensor, expert: int, dtype: torch.dtype) -> Tensor:
    """One expert's `(O, I)` matrix of a plain or quantised weight `(E, O, I)`."""
    return weight.dequantise(expert, dtype) if isinstance(weight, QuantisedTensor) else weight[expert]


class _QuantisedLinear(GradFunction):
    """`x W^T` with a quantised weight."""

    @staticmethod
    def forward(ctx: Any, x_TI: Tensor, weight: QuantisedTensor) -> Tensor:
        ctx.weight = weight
        return product(x_TI, weight.dequantise(dtype=x_TI.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None]:
        if not ctx.needs_input_grad[0]:
            return None, None
        return product(grads[0], ctx.weight.dequantise(dtype=grads[0].dtype).t()), None


class _QuantisedGrouped(GradFunction):
    """Each expert's rows times its own widened matrix."""

    @staticmethod
    def forward(ctx: Any, x_RI: Tensor, weight: QuantisedTensor, counts: Counts) -> Tensor:
        ctx.weight, ctx.counts = weight, counts
        y_RO = x_RI.new_empty(x_RI.shape[0], weight.shape[1])
        for expert, rows in segments(counts):
            product(x_RI[rows], weight.dequantise(expert, x_RI.dtype), out=y_RO[rows])
        return y_RO

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, None]:
        if not ctx.needs_input_grad[0]:
            return None, None, None
        grad_RO, weight = grads[0], ctx.weight
        grad_x_RI = grad_RO.new_empty(grad_RO.shape[0], weight.shape[2])
        for expert, rows in segments(ctx.counts):
            product(grad_RO[rows], weight.dequantise(expert, grad_RO.dtype).t(), out=grad_x_RI[rows])
        return grad_x_RI, None, None


def quantised_linear(x_TI: Tensor, weight: QuantisedTensor) -> Tensor:
    """`(T, O)`: `x @ weight.T`, in `x_TI`'s dtype."""
    y_TO: Tensor = _QuantisedLinear.call(x_TI, weight)
    return y_TO


def quantised_grouped(x_RI: Tensor, weight: QuantisedTensor, counts: Counts) -> Tensor:
    """`(R, O)`: each expert's rows times its own `weight[e].T`."""
    y_RO: Tensor = _QuantisedGrouped.call(x_RI, weight, counts)
    return y_RO


class QuantisedLinear(Linear):
    """A `Linear` whose weight is `quantised`; it takes over `base`'s bias and has no `weight` parameter."""

    def __init__(self, base: Linear, quantised: QuantisedTensor) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = base.in_features, base.out_features
        self.register_parameter("weight", None)
        self.bias, self.quantised = base.bias, quantised

    def effective_weight(self) -> Tensor:
        return self.quantised.dequantise()

    def forward(self, x_TI: Tensor) -> Tensor:
        y_TO = quantised_linear(x_TI, self.quantised)
        return y_TO if self.bias is None else y_TO + self.bias.to(y_TO.dtype)


class QuantisedExpertLinear(ExpertLinear):
    """An `ExpertLinear` whose weight is `quantised`; it takes over `base`'s bias and has no `weight`
    parameter.
    """

    def __init__(self, base: ExpertLinear, quantised: QuantisedTensor) -> None:
        nn.Module.__init__(self)
        self.num_experts = base.num_experts
        self.in_features, self.out_features = base.in_features, base.out_features
        self.register_parameter("weight", None)
        self.bias, self.quantised = base.bias, quantised

    def effective_weight(self) -> Tensor:
        return self.quantised.dequantise()

    def forward(self, x_RI: Tensor, counts: Counts) -> Tensor:
        y_RO = quantised_grouped(x_RI, self.quantised, counts)
        return y_RO if self.bias is None else y_RO + self.per_row(self.bias, counts).to(y_RO.dtype)


def quantised_of(layer: nn.Module) -> QuantisedTensor | None:
    """The quantised weight of a layer, None for plain ones."""
    found = getattr(layer, "quantised", None)
    return found if isinstance(found, QuantisedTensor) else None


def quantise_layer(
    layer: Linear | ExpertLinear, bits: int, block: int
) -> QuantisedLinear | QuantisedExpertLinear:
    """The quantised form of a plain layer; on the meta device nothing is rounded, the codes are read
    later.
    """
    quantised = QuantisedTensor(tuple(layer.weight.shape), bits, block, layer.weight.device)
    if not layer.weight.is_meta:
        for index in range(layer.weight.shape[0]) if layer.weight.dim() == 3 else [None]:
            part = layer.weight if index is None else layer.weight[index]
            quantised.store(part, lambda tensor, index=index: tensor if index is None else tensor[index])  # type: ignore[misc]
    if isinstance(layer, ExpertLinear):
        return QuantisedExpertLinear(layer, quantised)
    return QuantisedLinear(layer, quantised)


def plain_with(layer: Linear | ExpertLinear, weight: Tensor) -> Linear | ExpertLinear:
    """A plain layer of the same shape and bias with `weight` as a new frozen parameter."""
    with torch.device("meta"):
        if isinstance(layer, ExpertLinear):
            plain: Linear | ExpertLinear = ExpertLinear(
                layer.num_experts, layer.in_features, layer.out_features
            )
        else:
            plain = Linear(layer.in_features, layer.out_features)
    plain.weight = nn.Parameter(weight.detach(), requires_grad=False)
    plain.bias = layer.bias
    return plain
