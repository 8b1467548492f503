"""Frozen layers whose weight is kept in 8 or 4 bits and widened one matrix at a time, in both passes.

No widened matrix outlives its product: autograd keeps the codes only.

T tokens, I input and O output features.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from coterie.nn.autograd import GradFunction
from coterie.nn.experts import ExpertLinear
from coterie.nn.kernels.dense import product
from coterie.nn.kernels.weights import ExpertWeights
from coterie.nn.linear import Linear
from coterie.nn.quantised_tensor import QuantisedTensor

# Numbers of a large matrix that are widened together, in whole blocks of rows.
_WIDENED, _ROWS = 1 << 20, 64


class _QuantisedLinear(GradFunction):
    """`x W^T` with a quantised weight."""

    @staticmethod
    def forward(ctx: Any, x_TI: Tensor, weight: QuantisedTensor) -> Tensor:
        ctx.weight = weight
        return _forward(x_TI, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None]:
        if not ctx.needs_input_grad[0]:
            return None, None
        return product(grads[0], ctx.weight.dequantise(dtype=grads[0].dtype).t()), None


def _forward(x_TI: Tensor, weight: QuantisedTensor) -> Tensor:
    """`x W^T`, some rows of W at a time: fresh memory for a large matrix costs more than its product."""
    num_outputs, num_inputs = weight.shape
    rows = max(_ROWS, _WIDENED // num_inputs // _ROWS * _ROWS)
    if num_outputs <= 2 * rows:
        return product(x_TI, weight.dequantise(dtype=x_TI.dtype))
    y_TO = x_TI.new_empty(x_TI.shape[0], num_outputs)
    for start in range(0, num_outputs, rows):
        part = weight.rows(start, min(start + rows, num_outputs))
        product(x_TI, part.dequantise(dtype=x_TI.dtype), out=y_TO[:, start : start + rows])
    return y_TO


def quantised_linear(x_TI: Tensor, weight: QuantisedTensor) -> Tensor:
    """`(T, O)`: `x @ weight.T`, in `x_TI`'s dtype."""
    y_TO: Tensor = _QuantisedLinear.call(x_TI, weight)
    return y_TO


class QuantisedLinear(Linear):
    """A `Linear` whose weight is `quantised`; it takes over `base`'s bias. Its `weight` is None."""

    def __init__(self, base: Linear, quantised: QuantisedTensor) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = base.in_features, base.out_features
        self.register_parameter("weight", None)
        self.bias, self.quantised = base.bias, quantised

    def effective_weight(self) -> Tensor:
        """The widened weight, float32."""
        return self.quantised.dequantise()

    def forward(self, x_TI: Tensor) -> Tensor:
        """(T, out), in the input's dtype."""
        y_TO = quantised_linear(x_TI, self.quantised)
        return y_TO if self.bias is None else y_TO + self.bias.to(y_TO.dtype)


class QuantisedExpertLinear(ExpertLinear):
    """An `ExpertLinear` whose weight is `quantised`; it takes over `base`'s bias. Its `weight` is None."""

    def __init__(self, base: ExpertLinear, quantised: QuantisedTensor) -> None:
        nn.Module.__init__(self)
        self.num_experts = base.num_experts
        self.in_features, self.out_features = base.in_features, base.out_features
        self.register_parameter("weight", None)
        self.bias, self.quantised = base.bias, quantised

    def weights(self, dtype: torch.dtype) -> ExpertWeights:
        """The codes; each product widens one matrix at a time."""
        return ExpertWeights(self.quantised, self.bias)

    def effective_weight(self) -> Tensor:
        """The widened weight, float32."""
        return self.quantised.dequantise()


def quantised_of(layer: nn.Module) -> QuantisedTensor | None:
    """The quantised weight of a layer, None for plain ones."""
    found = getattr(layer, "quantised", None)
    return found if isinstance(found, QuantisedTensor) else None


def quantise_layer(
    layer: Linear | ExpertLinear, bits: int, block: int
) -> QuantisedLinear | QuantisedExpertLinear:
    """The quantised form of a plain layer.

    On the meta device nothing is rounded: the codes are read from the checkpoint later.
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
