"""The one dense linear layer.

Its product (`kernels.dense`) is a `torch.library` operator, so that autograd and `torch.compile` see a single
opaque node.

T tokens, I input features, O output features.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coterie.nn.kernels import choose
from coterie.nn.kernels.dense import product, weight_gradient


@torch.library.custom_op("coterie::linear", mutates_args=())
def _linear(x_TI: Tensor, weight_OI: Tensor) -> Tensor:
    return product(x_TI, weight_OI)


@_linear.register_fake
def _(x_TI: Tensor, weight_OI: Tensor) -> Tensor:
    return x_TI.new_empty(x_TI.shape[0], weight_OI.shape[0])


@torch.library.custom_op("coterie::weight_gradient", mutates_args=())
def _weight_gradient(grad_TO: Tensor, x_TI: Tensor) -> Tensor:
    return weight_gradient(grad_TO, x_TI)


@_weight_gradient.register_fake
def _(grad_TO: Tensor, x_TI: Tensor) -> Tensor:
    return x_TI.new_empty(grad_TO.shape[1], x_TI.shape[1])


def _setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad_TO: Tensor) -> tuple[Tensor | None, Tensor | None]:
    x_TI, weight_OI = ctx.saved_tensors
    grad_x_TI = _linear(grad_TO, weight_OI.t()) if ctx.needs_input_grad[0] else None
    grad_weight_OI = _weight_gradient(grad_TO, x_TI) if ctx.needs_input_grad[1] else None
    return grad_x_TI, grad_weight_OI


_linear.register_autograd(_backward, setup_context=_setup_context)


def linear(x_TI: Tensor, weight_OI: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x @ weight.T + bias` as `(T, O)`, in `x_TI`'s dtype."""
    weight_OI = weight_OI.to(x_TI.dtype)
    if torch.compiler.is_compiling():  # the operator chooses when it runs: nothing is measured in a trace
        plainly, opaque = not choose.has_ways(x_TI, weight_OI), True
    elif torch.is_grad_enabled():
        plainly, opaque = choose.trains_plainly(x_TI, weight_OI), True
    else:
        plainly, opaque = choose.dense(x_TI, weight_OI) == "torch", False
    if plainly:
        return F.linear(x_TI, weight_OI, None if bias is None else bias.to(x_TI.dtype))
    # Outside autograd the bare product saves the way through PyTorch's dispatcher, about 15 us.
    y_TO = _linear(x_TI, weight_OI) if opaque else product(x_TI, weight_OI)
    return y_TO if bias is None else y_TO + bias


def drawn(*shape: int) -> nn.Parameter:
    """A parameter of normal(0, 0.02) numbers.

    On the meta device nothing is drawn, because that would import the compiler.
    """
    parameter = nn.Parameter(torch.empty(*shape))
    if not parameter.is_meta:
        nn.init.normal_(parameter, std=0.02)
    return parameter


class TokenEmbedding(nn.Embedding):
    """One vector per token, `(V, D)`."""

    def reset_parameters(self) -> None:
        """Draw normal(0, 1) numbers, except on the meta device (see `drawn`)."""
        if not self.weight.is_meta:
            super().reset_parameters()


class Linear(nn.Module):
    """A dense linear layer; the weight `(out, in)` is cast to the input's dtype at each call."""

    def __init__(self, in_features: int, out_features: int, bias: bool = False) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.weight = drawn(out_features, in_features)
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None

    def effective_weight(self) -> Tensor:
        """The (out, in) weight that the forward pass is equal to; adapted and quantised forms override it."""
        return self.weight

    def forward(self, x_TI: Tensor) -> Tensor:
        """(T, out), in the input's dtype."""
        return linear(x_TI, self.weight, self.bias)

    def extra_repr(self) -> str:
        """Features and whether there is a bias."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
        )
