"""Training in full of chosen experts alone: their weights are parameters of their own beside the frozen ones.

R routed rows sorted by expert, E experts, S chosen ones of them, I input features, O output features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from coterie.nn.autograd import GradFunction
from coterie.nn.experts import Counts, ExpertLinear, grouped_linear, segments
from coterie.nn.linear import product


class SubsetExpertLinear(ExpertLinear):
    """An `ExpertLinear` of which only the experts in `chosen` are trained; it takes over `base`'s weight and
    bias.

    `subset_weight (S, O, I)` and `subset_bias (S, O)` begin as copies of the chosen slices and stand in for
    them; the whole weight stays frozen, so that gradients and the optimiser's state exist for S experts only.
    """

    def __init__(self, base: ExpertLinear, chosen: Sequence[int]) -> None:
        nn.Module.__init__(self)
        self.num_experts = base.num_experts
        self.in_features, self.out_features = base.in_features, base.out_features
        self.weight, self.bias = base.weight, base.bias
        self.chosen = tuple(sorted(chosen))
        index = torch.tensor(self.chosen, device=base.weight.device)
        self.register_buffer("chosen_S", index, persistent=False)
        self.subset_weight = nn.Parameter(base.weight.detach()[index])
        self.subset_bias = None if base.bias is None else nn.Parameter(base.bias.detach()[index])
        for parameter in (self.weight, self.bias):
            if parameter is not None:
                parameter.requires_grad_(False)

    chosen_S: Tensor

    def effective_weight(self) -> Tensor:
        """The `(E, O, I)` weight the forward pass is equal to; a copy of the whole."""
        return self.weight.index_copy(0, self.chosen_S, self.subset_weight)

    def forward(self, x_RI: Tensor, counts: Counts) -> Tensor:
        if x_RI.device.type == "cpu":
            weights = (self.weight.to(x_RI.dtype), self.subset_weight.to(x_RI.dtype))
            slots = {expert: slot for slot, expert in enumerate(self.chosen)}
            y_RO: Tensor = _Subset.call(x_RI, *weights, counts, slots)
        else:
            y_RO = grouped_linear(x_RI, self.effective_weight(), counts)
        if self.bias is None or self.subset_bias is None:
            return y_RO
        bias_EO = self.bias.index_copy(0, self.chosen_S, self.subset_bias)
        return y_RO + self.per_row(bias_EO, counts).to(y_RO.dtype)

    @torch.no_grad()
    def merged(self) -> ExpertLinear:
        """A plain layer with the trained slices written into the same weight."""
        with torch.device("meta"):
            plain = ExpertLinear(self.num_experts, self.in_features, self.out_features)
        self.weight[self.chosen_S] = self.subset_weight
        if self.bias is not None and self.subset_bias is not None:
            self.bias[self.chosen_S] = self.subset_bias
        plain.weight, plain.bias = self.weight, self.bias
        return plain

    def extra_repr(self) -> str:
        """The layer and how many of its experts are trained."""
        return f"{super().extra_repr()}, {len(self.chosen)} of them trained"


class _Subset(GradFunction):
    """The grouped product with each expert's rows times its own slice, of the subset where it has one."""

    @staticmethod
    def forward(
        ctx: Any,
        x_RI: Tensor,
        weight_EOI: Tensor,
        subset_SOI: Tensor,
        counts: Counts,
        slots: Mapping[int, int],
    ) -> Tensor:
        ctx.save_for_backward(x_RI, weight_EOI, subset_SOI)
        ctx.counts, ctx.slots = counts, slots
        y_RO = x_RI.new_empty(x_RI.shape[0], weight_EOI.shape[1])
        for expert, rows in segments(counts):
            matrix = subset_SOI[slots[expert]] if expert in slots else weight_EOI[expert]
            product(x_RI[rows], matrix, out=y_RO[rows])
        return y_RO

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x_RI, weight_EOI, subset_SOI = ctx.saved_tensors
        grad_RO = grads[0]
        grad_x_RI = torch.empty_like(x_RI) if ctx.needs_input_grad[0] else None
        grad_subset_SOI = torch.zeros_like(subset_SOI) if ctx.needs_input_grad[2] else None
        for expert, rows in segments(ctx.counts):
            slot = ctx.slots.get(expert)
            matrix = weight_EOI[expert] if slot is None else subset_SOI[slot]
            if grad_x_RI is not None:
                product(grad_RO[rows], matrix.t(), out=grad_x_RI[rows])
            if grad_subset_SOI is not None and slot is not None:
                torch.mm(grad_RO[rows].t(), x_RI[rows], out=grad_subset_SOI[slot])
        return grad_x_RI, None, grad_subset_SOI, None, None
