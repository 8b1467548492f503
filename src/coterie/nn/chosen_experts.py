"""Full training of chosen experts: their weights become separate parameters and all others stay frozen.

E experts, S of them chosen, I input features, O output features.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from coterie.nn.experts import ExpertLinear
from coterie.nn.kernels.weights import ExpertWeights


class SubsetExpertLinear(ExpertLinear):
    """An `ExpertLinear` that trains only the experts in `chosen`; it takes over `base`'s weight and bias.

    `subset_weight` (S, O, I) and `subset_bias` (S, O) start as copies of the chosen slices and replace them
    in every product. The whole weight stays frozen, so that gradients and optimiser state exist for S experts
    only.
    """

    def __init__(self, base: ExpertLinear, chosen: Sequence[int]) -> None:
        nn.Module.__init__(self)
        self.num_experts = base.num_experts
        self.in_features, self.out_features = base.in_features, base.out_features
        self.weight, self.bias = base.weight, base.bias
        self.chosen = tuple(sorted(chosen))
        self.slots = {expert: slot for slot, expert in enumerate(self.chosen)}
        index = torch.tensor(self.chosen, device=base.weight.device)
        self.register_buffer("chosen_S", index, persistent=False)
        self.subset_weight = nn.Parameter(base.weight.detach()[index])
        self.subset_bias = None if base.bias is None else nn.Parameter(base.bias.detach()[index])
        for parameter in (self.weight, self.bias):
            if parameter is not None:
                parameter.requires_grad_(False)

    chosen_S: Tensor

    def effective_weight(self) -> Tensor:
        """The (E, O, I) weight that the forward pass is equal to: a copy of the whole."""
        return self.weight.index_copy(0, self.chosen_S, self.subset_weight)

    def weights(self, dtype: torch.dtype) -> ExpertWeights:
        """The frozen weight, and the trained slices in its place."""
        bias_EO: Tensor | None = self.bias
        if self.bias is not None and self.subset_bias is not None:
            bias_EO = self.bias.index_copy(0, self.chosen_S, self.subset_bias)
        slices_SOI = self.subset_weight.to(dtype)
        return ExpertWeights(self.weight.to(dtype), bias_EO, slots=self.slots, slices_SOI=slices_SOI)

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
