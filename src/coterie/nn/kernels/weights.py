"""The weights of one layer of experts as products read them, in whatever form the layer keeps them.

E experts, S of them adapted or trained alone, I input features, O output features, r rank.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from coterie.nn.quantised_tensor import QuantisedTensor

Counts = tuple[int, ...]


class ExpertWeights(NamedTuple):
    """One layer of experts: expert e maps x to `gain_e (W_e x + scale B_e A_e x) + bias_e`.

    `matrix` (E, O, I) holds the W_e, in the dtype of the rows unless quantised. `slots` maps each of the S
    experts that differ to its place in the tensors that begin with S. `slices_SOI` replace their W_e (chosen
    experts trained in full); `a_SrI` and `b_SOr` are their low-rank factors. `dropout` applies to the
    factors' input, and is 0 when it is off. `gain_EO` is DoRA's length over the row's norm.
    """

    matrix: Tensor | QuantisedTensor
    bias_EO: Tensor | None = None
    slots: Mapping[int, int] = MappingProxyType({})
    slices_SOI: Tensor | None = None
    a_SrI: Tensor | None = None
    b_SOr: Tensor | None = None
    scale: float = 1.0
    dropout: float = 0.0
    gain_EO: Tensor | None = None

    @property
    def is_plain(self) -> bool:
        """Whether there is only a plain matrix."""
        return (
            self.bias_EO is None
            and self.slices_SOI is None
            and self.a_SrI is None
            and self.gain_EO is None
            and isinstance(self.matrix, Tensor)
        )

    @property
    def is_adapted_only(self) -> bool:
        """Whether there is only a frozen matrix with factors, without dropout."""
        frozen = not isinstance(self.matrix, Tensor) or not self.matrix.requires_grad
        rest = (self.bias_EO, self.slices_SOI, self.gain_EO)
        return self.a_SrI is not None and frozen and not self.dropout and all(part is None for part in rest)


def matrix_of(weight: Tensor | QuantisedTensor, expert: int, dtype: torch.dtype) -> Tensor:
    """One expert's (O, I) matrix of a plain or quantised weight (E, O, I)."""
    return weight.dequantise(expert, dtype) if isinstance(weight, QuantisedTensor) else weight[expert]


def segments(counts: Counts) -> list[tuple[int, slice]]:
    """(expert, its rows) of each expert that has rows."""
    segments = []
    start = 0
    for expert, count in enumerate(counts):
        if count:
            segments.append((expert, slice(start, start + count)))
        start += count
    return segments


def empty_gradient(weight_EOI: Tensor, counts: Counts) -> Tensor:
    """Memory for a weight's gradient. Only experts without rows need zeros; the others are written whole."""
    gradient_EOI = torch.empty_like(weight_EOI)
    for expert, count in enumerate(counts):
        if count == 0:
            gradient_EOI[expert].zero_()
    return gradient_EOI
