"""Weights in 8 or 4 bits, with a scale for each block of numbers along a row.

No block crosses a row or an expert.

`*` leading dimensions (experts or none), O output and I input features, B blocks of a row, b numbers of a
block.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from coterie.nn.kernels import one_pass

BITS = {"int8": 8, "int4": 4}


class QuantisedTensor(nn.Module):
    """A frozen weight `(*, O, I)` as plain tensors.

    `scales (*, O, B)`: bfloat16 unless they are kept from a file. 8 bits: `codes (*, O, B, b)` int8, a number
    is `code * scale`. 4 bits: `codes (*, O, B, b / 2)` uint8, the first half of a block in the low and the
    second in the high bits, a number is `(code - 8) * scale`; the sign of the scale is chosen so that the
    largest number of the block is exact to its rounding. A short last block is filled with zeros.
    """

    codes: Tensor
    scales: Tensor

    def __init__(
        self, shape: tuple[int, ...], bits: int, block: int, device: torch.device | None = None
    ) -> None:
        super().__init__()
        self.shape, self.bits, self.kept = tuple(shape), bits, False
        self._allocate(block, torch.bfloat16, device)

    def _allocate(self, block: int, scales: torch.dtype, device: torch.device | None) -> None:
        width = self.shape[-1]
        self.block = min(block + block % 2, width + width % 2)  # even: two numbers share a byte
        leading = (*self.shape[:-1], -(-width // self.block))
        size, dtype = (self.block, torch.int8) if self.bits == 8 else (self.block // 2, torch.uint8)
        self.register_buffer("codes", torch.empty(*leading, size, dtype=dtype, device=device))
        self.register_buffer("scales", torch.empty(leading, dtype=scales, device=device))

    def keep(self, block: int, scales: torch.dtype) -> None:
        """Make place for codes and scales that `store_codes` takes from a file as they are.

        `kept` is true afterwards.
        """
        self._allocate(block, scales, self.codes.device)
        self.kept = True

    @property
    def nbytes(self) -> int:
        """Bytes of codes and scales."""
        return self.codes.nbytes + self.scales.nbytes

    def part(self, index: int) -> QuantisedTensor:
        """Expert `index` of a tensor (E, O, I) as (1, O, I), which shares its memory."""
        return self.rows(index, index + 1)

    def rows(self, start: int, stop: int) -> QuantisedTensor:
        """Experts or rows from `start` to `stop` (exclusive), which share this tensor's memory."""
        part = QuantisedTensor.__new__(QuantisedTensor)
        nn.Module.__init__(part)
        part.shape, part.bits = (stop - start, *self.shape[1:]), self.bits
        part.kept, part.block = self.kept, self.block
        part.register_buffer("codes", self.codes[start:stop])
        part.register_buffer("scales", self.scales[start:stop])
        return part

    @torch.no_grad()
    def store(self, weight: Tensor, view: Callable[[Tensor], Tensor] = lambda tensor: tensor) -> None:
        """Round `weight` into the part of this tensor that `view` takes of its leading dimensions."""
        codes, scales = self._round(weight.to(self.codes.device))
        view(self.codes).copy_(codes)
        view(self.scales).copy_(scales)

    @torch.no_grad()
    def store_codes(
        self, codes: Tensor, scales: Tensor, view: Callable[[Tensor], Tensor] = lambda tensor: tensor
    ) -> None:
        """Take codes (*, O, I), int8 around 0, and scales (*, O, B) into the part that `view` takes."""
        view(self.codes).copy_(self._packed(self._blocks(codes.to(self.codes.device))))
        view(self.scales).copy_(scales)

    def _blocks(self, rows: Tensor) -> Tensor:
        missing = self.scales.shape[-1] * self.block - self.shape[-1]
        return torch.nn.functional.pad(rows, (0, missing)).unflatten(-1, (-1, self.block))

    def _packed(self, codes: Tensor) -> Tensor:
        if self.bits == 8:
            return codes.to(torch.int8)
        low, high = (codes + 8).to(torch.uint8).chunk(2, dim=-1)
        return low | (high << 4)

    def _round(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        blocks = self._blocks(weight.float())
        largest = blocks.gather(-1, blocks.abs().argmax(-1, keepdim=True)).squeeze(-1)
        scales = away_from_zero(largest.abs() / 127 if self.bits == 8 else largest / -8)
        inverse = torch.where(scales == 0, 0.0, 1.0 / scales.float())
        codes = (blocks * inverse[..., None]).round_()
        return self._packed(codes.clamp_(-127, 127) if self.bits == 8 else codes.clamp_(-8, 7)), scales

    def dequantise(self, index: int | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
        """`(*, O, I)` in `dtype`, or with `index` the one matrix `(O, I)` of an expert."""
        codes, scales = (
            (self.codes, self.scales) if index is None else (self.codes[index], self.scales[index])
        )
        shape = self.shape if index is None else self.shape[1:]
        if one_pass.widens(codes, scales, math.prod(shape), dtype):
            numbers = torch.empty(shape, dtype=dtype)
            one_pass.widen(codes, scales, self.bits, self.block, numbers)
            return numbers
        if self.bits == 8:
            blocks = codes.to(dtype).mul_(scales[..., None])
        else:
            blocks = torch.empty(*codes.shape[:-1], 2, codes.shape[-1], dtype=dtype, device=codes.device)
            blocks[..., 0, :] = codes & 15
            blocks[..., 1, :] = codes >> 4
            blocks = blocks.sub_(8).mul_(scales[..., None, None]).flatten(-2)
        return blocks.flatten(-2)[..., : self.shape[-1]]

    def signed(self) -> Tensor:
        """`(*, O, I)` int8: the codes around 0, in the order of the numbers."""
        codes = self.codes
        if self.bits == 4:
            codes = torch.cat((codes & 15, codes >> 4), -1).to(torch.int8) - 8
        return codes.flatten(-2)[..., : self.shape[-1]]

    def extra_repr(self) -> str:
        """Shape and bits."""
        return f"{tuple(self.shape)}, {self.bits} bits in blocks of {self.block}"


def away_from_zero(scales: Tensor) -> Tensor:
    """bfloat16, never smaller than given: a block's largest number keeps its code."""
    rounded = scales.to(torch.bfloat16)
    short = rounded.float().abs() < scales.abs()
    return torch.where(short, (rounded.view(torch.int16) + 1).view(torch.bfloat16), rounded)
