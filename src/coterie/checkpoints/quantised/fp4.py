"""Numbers of 4 bits with an exponent (E2M1): MXFP4 and NVFP4 in the orders that checkpoints have.

O rows, I columns of a matrix, B blocks of a row.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from coterie.checkpoints.quantised.encoded import Decoding, Parts, Shape
from coterie.checkpoints.quantised.fp8 import exponents

# A 4-bit float: sign, two bits of exponent, one of mantissa.
_E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def e2m1(pairs: Tensor) -> Tensor:
    """(..., 2 N) float32 from bytes (..., N), each of which holds two numbers, the first in its low half."""
    values = torch.tensor(_E2M1 + tuple(-value for value in _E2M1))
    codes = torch.arange(256)
    table = torch.stack((values[codes & 15], values[codes >> 4]), dim=-1)
    return table[pairs.to(torch.int32)].flatten(-2)


@dataclass(frozen=True)
class Fp4(Decoding):
    """E2M1 numbers, one scale per block of a row; `whole`, if there, scales the tensor once more.

    Parts: `weight (O, I / 2)` bytes in rows, `scale (O, B)` as E4M3 or as an exponent, `whole` one number.
    `divides`: compressed-tensors divides by `whole`, ModelOpt multiplies. `transposed`: the tensor is (I, O).
    """

    kind: str
    divides: bool = False
    transposed: bool = False

    @property
    def label(self) -> str:
        """The kind; each has blocks of one size."""
        return self.kind

    def decode(self, parts: Parts, shape: Shape) -> Tensor:
        """(O, I) float32, or (I, O) when transposed."""
        scale = exponents(parts["scale"]).float()
        if "whole" in parts:
            whole = parts["whole"].float()
            scale = scale / whole if self.divides else scale * whole
        numbers = e2m1(parts["weight"].flatten(1)).unflatten(1, (scale.shape[1], -1))
        matrix = numbers.mul_(scale[..., None]).flatten(1)
        return matrix.T if self.transposed else matrix
