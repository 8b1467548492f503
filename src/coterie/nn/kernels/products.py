"""The products of two matrices that `choose.dense` chooses from, without autograd.

T rows, I input and O output features.
"""

from __future__ import annotations

import torch
from torch import Tensor


def plain(x_TI: Tensor, weight_OI: Tensor) -> Tensor:
    """`x @ weight.T` as PyTorch computes it."""
    return torch.mm(x_TI, weight_OI.t())


def by_onednn(x_TI: Tensor, weight_OI: Tensor) -> Tensor:
    """`x @ weight.T` by oneDNN, which PyTorch asks for float32 products only within convolutions."""
    y_TO: Tensor = torch.ops.mkldnn._linear_pointwise(x_TI, weight_OI, None, "none", [], "")
    return y_TO


def turned(x_TI: Tensor, weight_OI: Tensor) -> Tensor:
    """`x @ weight.T` as a transposed view of `weight @ x.T`.

    A single row is taken twice, because PyTorch's product with a vector has no fast path.
    """
    rows = x_TI.shape[0]
    return torch.mm(weight_OI, (torch.cat((x_TI, x_TI)) if rows == 1 else x_TI).t()).t()[:rows]


def plain_weight_gradient(grad_TO: Tensor, x_TI: Tensor) -> Tensor:
    """`grad.T @ x` as PyTorch computes it."""
    return torch.mm(grad_TO.t(), x_TI)


def onednn_weight_gradient(grad_TO: Tensor, x_TI: Tensor) -> Tensor:
    """`grad.T @ x` by oneDNN, which is faster with the smaller side as its rows."""
    if x_TI.shape[1] <= grad_TO.shape[1]:
        return by_onednn(x_TI.t(), grad_TO.t()).t().contiguous()
    return by_onednn(grad_TO.t(), x_TI.t())
