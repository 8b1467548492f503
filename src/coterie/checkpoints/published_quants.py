"""Unpack the FP8 and MXFP4 numbers of published checkpoints (docs/design/families.md, number formats).

O rows, I columns, E experts.
"""

from __future__ import annotations

import torch
from torch import Tensor

# A 4-bit float: sign, two bits of exponent, one of mantissa.
_E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def fp8_blocks(weight_OI: Tensor, scale: Tensor, rows: int, columns: int) -> Tensor:
    """(O, I) float32: every block of `rows` x `columns` numbers times its scale; the last may be partial.

    `scale`: (ceil(O / rows), ceil(I / columns)).
    """
    num_rows, num_columns = weight_OI.shape
    by_row = scale.float().repeat_interleave(rows, 0)[:num_rows]
    return weight_OI.float() * by_row.repeat_interleave(columns, 1)[:, :num_columns]


def mxfp4(blocks: Tensor, scales: Tensor) -> Tensor:
    """(E, O, I) float32 from blocks (E, O, I / 32, 16) and scales (E, O, I / 32), both uint8.

    A byte holds two numbers, the first in its low half; a scale s means 2 ** (s - 127).
    """
    values = torch.tensor(_E2M1 + tuple(-v for v in _E2M1))
    pairs = torch.stack((values[(blocks & 15).long()], values[(blocks >> 4).long()]), dim=-1)
    return torch.ldexp(pairs.flatten(-2), scales.to(torch.int32).sub(127).unsqueeze(-1)).flatten(-2)
