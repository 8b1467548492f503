"""Dense products without autograd, on every device. T rows, I input and O output features."""

from __future__ import annotations

import torch
from torch import Tensor

from coterie.nn.kernels import choose


def product(x_TI: Tensor, weight_OI: Tensor, out: Tensor | None = None) -> Tensor:
    """`x @ weight.T` without autograd, into `out` where given; either matrix may be a transposed view."""
    kind = choose.dense(x_TI, weight_OI)
    if kind == "turned":
        y_TO = turned(x_TI, weight_OI)
        return y_TO.contiguous() if out is None else out.copy_(y_TO)
    if kind == "onednn":
        y_TO = torch.ops.mkldnn._linear_pointwise(x_TI, weight_OI, None, "none", [], "")
        return y_TO if out is None else out.copy_(y_TO)
    return torch.mm(x_TI, weight_OI.t()) if out is None else torch.mm(x_TI, weight_OI.t(), out=out)


def turned(x_TI: Tensor, weight_OI: Tensor) -> Tensor:
    """`x @ weight.T` as a transposed view.

    A single row is taken twice, because PyTorch's product with a vector has no fast path.
    """
    rows = x_TI.shape[0]
    return torch.mm(weight_OI, (torch.cat((x_TI, x_TI)) if rows == 1 else x_TI).t()).t()[:rows]
