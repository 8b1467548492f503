"""Pack numbers into ggml's K types: 256 neighbours share one or two float16, groups of them whole numbers.

The search for the scale of a group is that of llama.cpp without an importance matrix: several roundings are
tried and each is fitted by least squares. Groups are columns, (n, G) with n numbers in each of G groups, so
that sums over a group run along memory. B blocks of 256 numbers.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_PIECE = 1 << 18  # numbers packed at a time
_NOTHING = 1e-15  # groups below this are zero


def pack_k(rows_RI: Tensor, kind: str) -> Tensor:
    """Rows of float32 as bytes (R, bytes of a row). Numbers too large for float16 make scales infinite."""
    blocks = rows_RI.reshape(-1, 256)
    step = _PIECE // 256
    pieces = [_PACK[kind](blocks[start : start + step]) for start in range(0, len(blocks), step)]
    return torch.cat(pieces).view(len(rows_RI), -1)


def _groups(blocks: Tensor, size: int) -> Tensor:
    """(size, G) from (B, 256)."""
    return blocks.view(-1, size).t().contiguous()


def _fit_with_offset(
    x_nG: Tensor, weight_nG: Tensor, top: int, first: float, tries: int, absolute: bool
) -> Tensor:
    """(2, G): scale and offset of `scale * code - offset` with codes from 0 to `top`, and offset at least 0.

    The steps tried are `spread / (top + first + 0.1 i)`. `absolute`: errors count by size, or else squared.
    """

    def error(codes: Tensor, scale: Tensor, low: Tensor) -> Tensor:
        off = (codes * scale).add_(low).sub_(x_nG)
        return off.abs_().mul_(weight_nG).sum(0) if absolute else off.square_().mul_(weight_nG).sum(0)

    def rounded(low: Tensor, steps: float) -> Tensor:
        return (x_nG - low).mul_(steps / (high - low)).round_().clamp_(0, top)

    high, low = x_nG.amax(0), x_nG.amin(0).clamp_(max=0)
    flat = high <= low
    high = torch.where(flat, low + 1, high)
    scale = (high - low) / top
    best = error(rounded(low, top), scale, low)
    sum_w, sum_x = weight_nG.sum(0), (weight_nG * x_nG).sum(0)
    for number in range(tries + 1):
        codes = rounded(low, top + first + 0.1 * number)
        weighted = weight_nG * codes
        sum_l, sum_l2, sum_xl = weighted.sum(0), (weighted * codes).sum(0), (weighted * x_nG).sum(0)
        determinant = sum_w * sum_l2 - sum_l * sum_l
        new_scale = (sum_w * sum_xl - sum_x * sum_l) / determinant
        new_low = (sum_l2 * sum_x - sum_l * sum_xl) / determinant
        above = new_low > 0
        new_scale = torch.where(above, sum_xl / sum_l2, new_scale)
        new_low = torch.where(above, 0.0, new_low)
        found = error(codes, new_scale, new_low)
        better = (determinant > 0) & (found < best)
        best = torch.where(better, found, best)
        scale, low = torch.where(better, new_scale, scale), torch.where(better, new_low, low)
    return torch.stack((torch.where(flat, 0.0, scale), -low))


def _largest(x_nG: Tensor) -> Tensor:
    """(G,) the number of largest size in each group, with its sign."""
    return x_nG.gather(0, x_nG.abs().argmax(0, keepdim=True))[0]


def _start(x_nG: Tensor, largest_G: Tensor, top: int, steps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Codes when the largest number is `-steps`, and their sums with the numbers and with themselves.

    Squares of the numbers are the weights: large ones count more.
    """
    codes = (x_nG * (-steps / largest_G)).round_().clamp_(-top, top - 1)
    weighted = x_nG.square() * codes
    return codes, (weighted * x_nG).sum(0), (weighted * codes).sum(0)


def _fit_signed(x_nG: Tensor, top: int) -> Tensor:
    """(G,) scale for codes from -top to top - 1, the best of several roundings."""
    largest = _largest(x_nG)
    best, scale = torch.zeros_like(largest), torch.zeros_like(largest)
    for number in (0, *range(-9, 0), *range(1, 10)):
        _, sum_xl, sum_l2 = _start(x_nG, largest, top, top + 0.1 * number)
        better = (sum_l2 > 0) & (sum_xl * sum_xl > best * sum_l2)
        scale = torch.where(better, sum_xl / sum_l2, scale)
        best = torch.where(better, scale * sum_xl, best)
    return torch.where(largest.abs() < _NOTHING, 0.0, scale)


def _fit_one_by_one(x_nG: Tensor, top: int) -> Tensor:
    """(G,) scale for codes from -top to top - 1, each of which is improved in turn while that helps."""
    largest = _largest(x_nG)
    codes, sum_xl, sum_l2 = _start(x_nG, largest, top, top)
    for _ in range(5):
        changed = False
        for x, code in zip(x_nG, codes, strict=True):
            weight = x * x
            rest_xl, rest_l2 = sum_xl - weight * x * code, sum_l2 - weight * code * code
            new = (x * rest_l2 / rest_xl).round_().clamp_(-top, top - 1)
            new_xl, new_l2 = rest_xl + weight * x * new, rest_l2 + weight * new * new
            better = (rest_xl > 0) & (new != code) & (new_l2 > 0)
            better &= new_xl * new_xl * sum_l2 > sum_xl * sum_xl * new_l2
            if bool(better.any()):
                changed = True
                code.copy_(torch.where(better, new, code))
                sum_xl, sum_l2 = torch.where(better, new_xl, sum_xl), torch.where(better, new_l2, sum_l2)
        if not changed:
            break
    nothing = (largest.abs() < _NOTHING) | (sum_l2 <= 0)
    return torch.where(nothing, 0.0, sum_xl / sum_l2)


def _shared(numbers_BJ: Tensor, top: int) -> tuple[Tensor, Tensor]:
    """float16 (B, 1) and whole numbers (B, J) up to `top`, whose products come near numbers from 0 up."""
    largest = numbers_BJ.amax(1, keepdim=True)
    codes = (numbers_BJ * (top / largest)).round_().clamp_(0, top)
    return (largest / top).half(), torch.where(largest > 0, codes, 0.0)


def _shared_signed(numbers_BJ: Tensor, top: int) -> tuple[Tensor, Tensor]:
    """float16 (B, 1) and whole numbers (B, J) from -top to top - 1, the largest of which is -top."""
    largest = _largest(numbers_BJ.t())[:, None]
    factor = -top / largest
    codes = (numbers_BJ * factor).round_().clamp_(-top, top - 1)
    nothing = largest == 0
    return torch.where(nothing, 0.0, 1 / factor).half(), torch.where(nothing, 0.0, codes)


def _codes(blocks: Tensor, scale_BJ: Tensor, offset_BJ: Tensor | float, low: int, high: int) -> Tensor:
    """uint8 (B, J, n): the nearest codes from `low` to `high`, counted from `low`; 0 where the scale is 0."""
    x = blocks.view(*scale_BJ.shape, -1) + (
        offset_BJ if isinstance(offset_BJ, float) else offset_BJ[..., None]
    )
    codes = (x / scale_BJ[..., None]).round_().clamp_(low, high)
    return torch.where(scale_BJ[..., None] == 0, 0.0, codes).sub_(low).to(torch.uint8)


def _bytes(*parts: Tensor) -> Tensor:
    """Parts (B, ...) of float16 or bytes side by side as bytes of a block."""
    return torch.cat([part.reshape(len(part), -1).view(torch.uint8) for part in parts], dim=1)


def _quarters(codes: Tensor) -> Tensor:
    """(B, 64) bytes from two bits of (B, 256): those of 32 j to 32 j + 31 in bits 2j of a half's 32 bytes."""
    parts = codes.view(-1, 2, 4, 32)
    return parts[:, :, 0] | parts[:, :, 1] << 2 | parts[:, :, 2] << 4 | parts[:, :, 3] << 6


def _eighths(bits: Tensor) -> Tensor:
    """(B, 32) bytes from one bit of (B, 256): those of 32 i to 32 i + 31 in bit i."""
    packed = torch.zeros(len(bits), 32, dtype=torch.uint8)
    for part, bit in enumerate(bits.view(-1, 8, 32).unbind(1)):
        packed |= bit << part
    return packed


def _q2_k(blocks: Tensor) -> Tensor:
    x_nG = _groups(blocks, 16)
    scale_BJ, offset_BJ = _fit_with_offset(x_nG, x_nG.abs(), 3, -0.5, 15, True).view(2, -1, 16)
    (d, scales), (dmin, offsets) = _shared(scale_BJ, 15), _shared(offset_BJ, 15)
    codes = _codes(blocks, d.float() * scales, dmin.float() * offsets, 0, 3)
    return _bytes(scales.to(torch.uint8) | offsets.to(torch.uint8) << 4, _quarters(codes), d, dmin)


def _q3_k(blocks: Tensor) -> Tensor:
    d, scales = _shared_signed(_fit_one_by_one(_groups(blocks, 16), 4).view(-1, 16), 32)
    codes = _codes(blocks, d.float() * scales, 0.0, -4, 3).view(-1, 256)
    six = (scales + 32).to(torch.uint8)
    low = six[:, :8] & 15 | (six[:, 8:] & 15) << 4
    tops = (six >> 4).view(-1, 4, 4)
    high = tops[:, 0] | tops[:, 1] << 2 | tops[:, 2] << 4 | tops[:, 3] << 6
    return _bytes(_eighths(codes >> 2), _quarters(codes & 3), low, high, d)


def _wide(blocks: Tensor, top: int, first: float, tries: int) -> tuple[Tensor, Tensor]:
    """Q4_K and Q5_K: their 16 bytes of scales, and codes (B, 8, 32) up to `top`."""
    x_nG = _groups(blocks, 32)
    weight_nG = x_nG.abs() + x_nG.square().mean(0).sqrt()
    scale_BJ, offset_BJ = _fit_with_offset(x_nG, weight_nG, top, first, tries, False).view(2, -1, 8)
    (d, scales), (dmin, offsets) = _shared(scale_BJ, 63), _shared(offset_BJ, 63)
    codes = _codes(blocks, d.float() * scales, dmin.float() * offsets, 0, top)
    ls, lm = scales.to(torch.uint8), offsets.to(torch.uint8)
    first_four = ls[:, :4] | ls[:, 4:] >> 4 << 6
    second_four = lm[:, :4] | lm[:, 4:] >> 4 << 6
    return _bytes(d, dmin, first_four, second_four, ls[:, 4:] & 15 | (lm[:, 4:] & 15) << 4), codes


def _q4_k(blocks: Tensor) -> Tensor:
    head, codes = _wide(blocks, 15, -1.0, 20)
    pairs = codes.view(-1, 4, 2, 32)
    return _bytes(head, pairs[:, :, 0] | pairs[:, :, 1] << 4)


def _q5_k(blocks: Tensor) -> Tensor:
    head, codes = _wide(blocks, 31, -0.5, 15)
    pairs = (codes & 15).view(-1, 4, 2, 32)
    return _bytes(head, _eighths(codes >> 4), pairs[:, :, 0] | pairs[:, :, 1] << 4)


def _q6_k(blocks: Tensor) -> Tensor:
    d, scales = _shared_signed(_fit_signed(_groups(blocks, 16), 32).view(-1, 16), 128)
    codes = _codes(blocks, d.float() * scales, 0.0, -32, 31).view(-1, 2, 4, 32)
    low = codes & 15
    return _bytes(low[:, :, :2] | low[:, :, 2:] << 4, _quarters(codes >> 4), scales.to(torch.int8), d)


_PACK: dict[str, Callable[[Tensor], Tensor]] = {
    "Q2_K": _q2_k,
    "Q3_K": _q3_k,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
}
K_TYPES = tuple(_PACK)
