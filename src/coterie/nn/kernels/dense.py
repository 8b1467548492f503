"""Dense products without autograd, on every device. T rows, I input and O output features."""

from __future__ import annotations

import torch
from torch import Tensor

from coterie.nn.kernels import choose
from coterie.nn.kernels.products import (
    by_onednn,
    onednn_weight_gradient,
    plain,
    plain_weight_gradient,
    turned,
)


def product(x_TI: Tensor, weight_OI: Tensor, out: Tensor | None = None) -> Tensor:
    """`x @ weight.T` without autograd, into `out` where given; either matrix may be a transposed view."""
    kind = choose.dense(x_TI, weight_OI, out is not None)
    if kind == "turned":
        y_TO = turned(x_TI, weight_OI)
        return y_TO.contiguous() if out is None else out.copy_(y_TO)
    if kind == "onednn":
        y_TO = by_onednn(x_TI, weight_OI)
        return y_TO if out is None else out.copy_(y_TO)
    return plain(x_TI, weight_OI) if out is None else torch.mm(x_TI, weight_OI.t(), out=out)


def weight_gradient(grad_TO: Tensor, x_TI: Tensor) -> Tensor:
    """`grad.T @ x` (O, I): the gradient of the weight of `x @ weight.T`."""
    if choose.weight_gradient(x_TI, grad_TO) == "onednn":
        return onednn_weight_gradient(grad_TO, x_TI)
    return plain_weight_gradient(grad_TO, x_TI)
