"""Experts with a clamped activation (gpt-oss). R routed rows, D width, F expert width, E experts."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from coterie.config.model import ClampedConfig
from coterie.nn.experts import Counts, ExpertLinear


class ClampedExperts(nn.Module):
    """`down((up + 1) * gate * sigmoid(alpha * gate))`, gate at most `limit`, up within `limit` either way,
    all biased.

    Unlike in `Experts`, gate and up rows of `gate_up` (E, 2F, D) alternate, gate first: the order of the
    published tensors, of which these parameters can then be views.
    """

    def __init__(self, num_experts: int, width: int, expert_width: int, config: ClampedConfig) -> None:
        super().__init__()
        self.config = config
        self.gate_up = ExpertLinear(num_experts, width, 2 * expert_width, bias=True)
        self.down = ExpertLinear(num_experts, expert_width, width, bias=True)

    def forward(self, x_RD: Tensor, counts: Counts) -> Tensor:
        """`(R, D)` for rows sorted by expert."""
        limit = self.config.limit
        gate_RF, up_RF = self.gate_up(x_RD, counts).unflatten(-1, (-1, 2)).unbind(-1)
        gate_RF, up_RF = gate_RF.clamp(max=limit), up_RF.clamp(-limit, limit)
        return self.down((up_RF + 1) * gate_RF * torch.sigmoid(self.config.alpha * gate_RF), counts)
