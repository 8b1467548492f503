"""Numbers of 4 bits with an exponent (E2M1): MXFP4 and NVFP4 in the orders that checkpoints have.

O rows, I columns of a matrix, B blocks of a row.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from coterie.checkpoints.quantised.encoded import Decoding, Parts, Shape
from coterie.checkpoints.quantised.finder import Finder
from coterie.checkpoints.quantised.fp8 import EXPONENTS, FLOATS, exponents
from coterie.config import CheckpointError

EXPONENT, FLOAT8 = 32, 16  # numbers of a block, by the type of its scale

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


def add_fp4(found: Finder, stem: str, codes: str, whole: str, kind: str, divides: bool = False) -> None:
    """`codes` (O, I / 2) with `.weight_scale` encode `stem.weight`, as MXFP4 or as NVFP4 by the scale's type.

    `whole`: the ending of NVFP4's second scale. `kind`: the method, for `label`. Errors: `CheckpointError`
    for a missing part and wrong shapes.
    """
    name, scale = f"{stem}.weight", f"{stem}.weight_scale"
    rows, half = found.matrix(codes)
    mx = found.place(name, scale)[1].dtype in EXPONENTS
    block = EXPONENT if mx else FLOAT8
    found.checked(name, scale, EXPONENTS if mx else ("F8_E4M3",), (rows, -(-half * 2 // block)))
    if half * 2 % block:
        raise CheckpointError(f"{found.entries[codes][0]}: '{codes}' is not whole blocks of {block} numbers")
    parts = {"weight": codes, "scale": scale}
    if not mx:
        parts["whole"] = found.checked(name, stem + whole, FLOATS, (1,), ())
    found.add(name, (rows, half * 2), Fp4(f"{kind} {'mxfp4' if mx else 'nvfp4'}", divides), **parts)
