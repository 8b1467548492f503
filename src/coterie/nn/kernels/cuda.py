"""Products that exist on CUDA only. R routed rows sorted by expert, E experts, I and O features."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from coterie.nn.kernels.weights import Counts


def grouped_mm(x_RI: Tensor, weight_EOI: Tensor, counts: Counts) -> Tensor:
    """(R, O): each expert's rows times its own matrix in one kernel, differentiable. bfloat16."""
    ends_E = torch.tensor(counts, device=x_RI.device).cumsum(0).to(torch.int32)
    return F.grouped_mm(x_RI, weight_EOI.transpose(1, 2), offs=ends_E)
