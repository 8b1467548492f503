"""The one dense linear product.

On CPU, PyTorch's float32 product (MKL) takes a slow path on AMD processors; oneDNN's does not. The product is
one `torch.library` operator, so that autograd and `torch.compile` see a single opaque node.

T tokens, I input features, O output features.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Read once: torch.compile does not trace through the question.
HAS_ONEDNN = torch.backends.mkldnn.is_available()
# For a few rows oneDNN pays from this size of the weight on: 1.3 times faster for one row, up to twice for
# several.
_LARGE = 1 << 18
# A product of few rows is up to twice as fast turned round, while all rows together are short.
_SHORT, _NOT_TINY = 3072, 1 << 15


def uses_onednn(x_TI: Tensor, weight_OI: Tensor) -> bool:
    """Whether the product of these two goes through oneDNN: float32 on CPU, and not tiny."""
    return (
        x_TI.dtype == torch.float32
        and weight_OI.dtype == torch.float32
        and x_TI.device.type == "cpu"
        and HAS_ONEDNN
        and x_TI.numel() > 0
        and (x_TI.shape[0] >= 16 or weight_OI.numel() >= _LARGE)
    )


def is_short(x_TI: Tensor, weight_OI: Tensor) -> bool:
    """Whether `(weight @ x.T).T` is the faster way (see `_turned`): few float32 rows on CPU, and not a tiny
    weight.
    """
    return (
        0 < max(2, x_TI.shape[0]) * x_TI.shape[1] <= _SHORT
        and x_TI.numel() > 0
        and weight_OI.numel() >= _NOT_TINY
        and x_TI.dtype == torch.float32
        and weight_OI.dtype == torch.float32
        and x_TI.device.type == "cpu"
        and weight_OI.is_contiguous()
    )


def _turned(x_TI: Tensor, weight_OI: Tensor) -> Tensor:
    """`x @ weight.T` as a transposed view. A single row is taken twice: the product with a vector has no fast
    path.
    """
    rows = x_TI.shape[0]
    return torch.mm(weight_OI, (torch.cat((x_TI, x_TI)) if rows == 1 else x_TI).t()).t()[:rows]


def product(x_TI: Tensor, weight_OI: Tensor, out: Tensor | None = None) -> Tensor:
    """`x @ weight.T` without autograd, into `out` where given; either matrix may be a transposed view."""
    if is_short(x_TI, weight_OI):
        y_TO = _turned(x_TI, weight_OI)
        return y_TO.contiguous() if out is None else out.copy_(y_TO)
    if not uses_onednn(x_TI, weight_OI):
        return torch.mm(x_TI, weight_OI.t()) if out is None else torch.mm(x_TI, weight_OI.t(), out=out)
    y_TO = torch.ops.mkldnn._linear_pointwise(x_TI, weight_OI, None, "none", [], "")
    return y_TO if out is None else out.copy_(y_TO)


@torch.library.custom_op("coterie::linear", mutates_args=())
def _linear(x_TI: Tensor, weight_OI: Tensor) -> Tensor:
    return product(x_TI, weight_OI)


@_linear.register_fake
def _(x_TI: Tensor, weight_OI: Tensor) -> Tensor:
    return x_TI.new_empty(x_TI.shape[0], weight_OI.shape[0])


def _setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad_TO: Tensor) -> tuple[Tensor | None, Tensor | None]:
    x_TI, weight_OI = ctx.saved_tensors
    grad_x_TI = _linear(grad_TO, weight_OI.t()) if ctx.needs_input_grad[0] else None
    grad_weight_OI = None
    if ctx.needs_input_grad[1]:
        # Of the two forms of the same product oneDNN is faster with the smaller side as its rows.
        if x_TI.shape[1] <= grad_TO.shape[1]:
            grad_weight_OI = _linear(x_TI.t(), grad_TO.t()).t().contiguous()
        else:
            grad_weight_OI = _linear(grad_TO.t(), x_TI.t())
    return grad_x_TI, grad_weight_OI


_linear.register_autograd(_backward, setup_context=_setup_context)


def linear(x_TI: Tensor, weight_OI: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x @ weight.T + bias` as `(T, O)`, in `x_TI`'s dtype."""
    weight_OI = weight_OI.to(x_TI.dtype)
    traced = torch.is_grad_enabled() or torch.compiler.is_compiling()
    if not traced and is_short(x_TI, weight_OI):
        y_TO = _turned(x_TI, weight_OI).contiguous()
    elif not uses_onednn(x_TI, weight_OI):
        return F.linear(x_TI, weight_OI, None if bias is None else bias.to(x_TI.dtype))
    elif traced:
        y_TO = _linear(x_TI, weight_OI)
    else:
        y_TO = product(x_TI, weight_OI)  # without the way through the dispatcher, about 15 us
    return y_TO if bias is None else y_TO + bias


def drawn(*shape: int) -> nn.Parameter:
    """A parameter of normal(0, 0.02) numbers. On the meta device nothing is drawn: that would import the
    compiler.
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
        """The `(out, in)` weight the forward pass is equal to; adapted and quantised forms override it."""
        return self.weight

    def forward(self, x_TI: Tensor) -> Tensor:
        return linear(x_TI, self.weight, self.bias)

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
        )
