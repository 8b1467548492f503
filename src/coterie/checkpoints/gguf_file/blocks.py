"""Unpack the block types of GGUF files into float32, bit for bit as ggml's reference does.

Each function takes B blocks as `raw` (B, bytes of a block), uint8, and fills `out`, contiguous float32 of B
times the block's numbers. A number is `scale * code`, `scale * code + offset` or `scale * code - offset`, in
float32 and in this order of operations. Torch's elementwise kernels on pieces that stay in the cache are many
times faster than numpy's.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from torch import Tensor

from coterie.config.extras import require_extra

PIECE = 1 << 18  # numbers unpacked at a time: the piece and its codes stay in the cache of a core
_IQ4 = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
CODEBOOKS = frozenset(("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "TQ1_0", "TQ2_0"))


class NotFiniteError(ValueError):
    """A scale of a block is infinite or not a number."""


def unpack_blocks(raw: Tensor, kind: str, out: Tensor) -> None:
    """Fill `out` from B blocks of type `kind`; both contiguous, on the CPU.

    Errors: `NotFiniteError` for a scale that is no number; `ConfigError` where a type with a codebook needs
    the gguf package.
    """
    if kind in _UNPACK:
        _UNPACK[kind](raw, out)
    else:
        _codebook(raw, kind, out)


def _half(raw: Tensor, at: int) -> Tensor:
    """(B, 1) float32 from the float16 at byte `at` of each block."""
    return _finite(raw[:, at : at + 2].contiguous().view(torch.float16).float())


def _finite(scales: Tensor) -> Tensor:
    if not bool(torch.isfinite(scales).all()):
        raise NotFiniteError("a scale is infinite or not a number")
    return scales


def _nibbles(packed: Tensor) -> tuple[Tensor, Tensor]:
    """The low and the high four bits of bytes, each contiguous."""
    packed = packed.contiguous()
    return packed & 15, packed >> 4


@cache
def _bits_of_bytes() -> Tensor:
    """(256,) int64: the byte's bits, lowest first, each in the fifth bit of one of eight bytes."""
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
    return torch.from_numpy((bits << 4).view(np.int64).reshape(256))


@cache
def _iq4_of_bytes() -> Tensor:
    """(256,) int16: the numbers of the byte's low and high half, int8 each."""
    table = np.array(_IQ4, np.int8)
    pairs = np.stack((np.tile(table, 16), np.repeat(table, 16)), axis=-1)
    return torch.from_numpy(np.ascontiguousarray(pairs).view(np.int16).reshape(256))


@cache
def _halved_powers() -> Tensor:
    """(256,) half of each E8M0 scale `2 ** (e - 127)`, for numbers that are doubled."""
    return torch.from_numpy(np.ldexp(np.float32(1), np.arange(256) - 128))


def _gather(table: Tensor, codes: Tensor) -> Tensor:
    return table.index_select(0, codes.flatten().int()).view(codes.shape)


def _q4_0(raw: Tensor, out: Tensor) -> None:
    halves = out.view(len(raw), 2, 16)
    halves[:, 0], halves[:, 1] = _nibbles(raw[:, 2:])
    halves.sub_(8).view(-1, 32).mul_(_half(raw, 0))


def _q4_1(raw: Tensor, out: Tensor) -> None:
    halves = out.view(len(raw), 2, 16)
    halves[:, 0], halves[:, 1] = _nibbles(raw[:, 4:])
    halves.view(-1, 32).mul_(_half(raw, 0)).add_(_half(raw, 2))


def _fifth_bits(raw: Tensor, at: int) -> Tensor:
    """(B, 32) codes of five bits: 32 fifth bits at byte `at`, then 16 bytes of halves."""
    codes = _gather(_bits_of_bytes(), raw[:, at : at + 4].contiguous()).view(torch.uint8)
    low, high = _nibbles(raw[:, at + 4 :])
    codes[:, :16].bitwise_or_(low)
    codes[:, 16:].bitwise_or_(high)
    return codes


def _q5_0(raw: Tensor, out: Tensor) -> None:
    out.view(-1, 32).copy_(_fifth_bits(raw, 2)).sub_(16).mul_(_half(raw, 0))


def _q5_1(raw: Tensor, out: Tensor) -> None:
    out.view(-1, 32).copy_(_fifth_bits(raw, 4)).mul_(_half(raw, 0)).add_(_half(raw, 2))


def _q8_0(raw: Tensor, out: Tensor) -> None:
    out.view(-1, 32).copy_(raw.view(torch.int8)[:, 2:]).mul_(_half(raw, 0))


def _two_bits(packed: Tensor) -> Tensor:
    """(B, 2, 4, 32) codes from 64 bytes: bits 2j of the 32 bytes of a half are its j-th 32 numbers."""
    packed = packed.contiguous().view(-1, 2, 32)
    codes = torch.empty(len(packed), 2, 4, 32, dtype=torch.uint8)
    for j in range(4):
        codes[:, :, j] = (packed >> 2 * j).bitwise_and_(3)
    return codes


def _q2_k(raw: Tensor, out: Tensor) -> None:
    scale, offset = _nibbles(raw[:, :16])
    numbers = out.view(-1, 16, 16).copy_(_two_bits(raw[:, 16:80]).view(-1, 16, 16))
    numbers.mul_((_half(raw, 80) * scale)[..., None]).sub_((_half(raw, 82) * offset)[..., None])


def _q3_k(raw: Tensor, out: Tensor) -> None:
    codes, high = _two_bits(raw[:, 32:96]), raw[:, :32].contiguous()
    for part in range(8):  # bit `part` of byte l is the third bit of number 32 part + l
        codes[:, part // 4, part % 4].bitwise_or_((high >> part).bitwise_and_(1).bitwise_left_shift_(2))
    low, high = _nibbles(raw[:, 96:104])
    tops = raw[:, 104:108].contiguous()
    tops = torch.cat([(tops >> 2 * part).bitwise_and_(3) for part in range(4)], dim=1)
    scale = torch.cat((low, high), dim=1) | tops.bitwise_left_shift_(4)
    scale = _half(raw, 108) * (scale.float() - 32)
    out.view(-1, 16, 16).copy_(codes.view(-1, 16, 16)).sub_(4).mul_(scale[..., None])


def _six_bit_scales(raw: Tensor) -> tuple[Tensor, Tensor]:
    """(B, 8, 1) scales and offsets of Q4_K and Q5_K: d and dmin, then eight six-bit numbers of each."""
    first, second, third = (raw[:, at : at + 4].contiguous() for at in (4, 8, 12))
    scale = torch.cat((first & 63, (third & 15) | (first >> 6 << 4)), dim=1)
    offset = torch.cat((second & 63, (third >> 4) | (second >> 6 << 4)), dim=1)
    return (_half(raw, 0) * scale)[..., None], (_half(raw, 2) * offset)[..., None]


def _q4_k(raw: Tensor, out: Tensor) -> None:
    scale, offset = _six_bit_scales(raw)
    low, high = _nibbles(raw[:, 16:])
    numbers = out.view(-1, 4, 2, 32)
    numbers[:, :, 0], numbers[:, :, 1] = low.view(-1, 4, 32), high.view(-1, 4, 32)
    numbers.view(-1, 8, 32).mul_(scale).sub_(offset)


def _q5_k(raw: Tensor, out: Tensor) -> None:
    scale, offset = _six_bit_scales(raw)
    low, high = _nibbles(raw[:, 48:])
    codes = torch.stack((low.view(-1, 4, 32), high.view(-1, 4, 32)), dim=2).view(-1, 8, 32)
    fifth = raw[:, 16:48].contiguous()
    for part in range(8):
        codes[:, part].bitwise_or_((fifth >> part).bitwise_and_(1).bitwise_left_shift_(4))
    out.view(-1, 8, 32).copy_(codes).mul_(scale).sub_(offset)


def _q6_k(raw: Tensor, out: Tensor) -> None:
    low, high = _nibbles(raw[:, :128])
    codes = torch.cat((low.view(-1, 2, 2, 32), high.view(-1, 2, 2, 32)), dim=2)
    tops = raw[:, 128:192].contiguous().view(-1, 2, 32)
    for part in range(4):
        codes[:, :, part].bitwise_or_((tops >> 2 * part).bitwise_and_(3).bitwise_left_shift_(4))
    scale = _half(raw, 208) * raw[:, 192:208].view(torch.int8)
    out.view(-1, 16, 16).copy_(codes.view(-1, 16, 16)).sub_(32).mul_(scale[..., None])


def _from_table(packed: Tensor) -> Tensor:
    """(..., 2, 16) int8 numbers of IQ4's table from (..., 16) bytes."""
    return _gather(_iq4_of_bytes(), packed).view(torch.int8).view(*packed.shape, 2).transpose(-1, -2)


def _iq4_nl(raw: Tensor, out: Tensor) -> None:
    out.view(-1, 2, 16).copy_(_from_table(raw[:, 2:]))
    out.view(-1, 32).mul_(_half(raw, 0))


def _iq4_xs(raw: Tensor, out: Tensor) -> None:
    tops, low = raw[:, 2:4].contiguous(), raw[:, 4:8].contiguous()
    tops = torch.stack([(tops >> 2 * part).bitwise_and_(3) for part in range(4)], dim=2).view(-1, 8)
    low = torch.stack((low & 15, low >> 4), dim=2).view(-1, 8)
    scale = _half(raw, 0) * ((low | tops << 4).float() - 32)
    out.view(-1, 8, 2, 16).copy_(_from_table(raw[:, 8:].reshape(-1, 8, 16)))
    out.view(-1, 8, 32).mul_(scale[..., None])


def _four_bit_floats(codes: Tensor) -> Tensor:
    """int16 whose bits are the float16 `2 ** -15` times twice the E2M1 numbers of `codes`."""
    codes = codes.to(torch.int16)
    return (codes & 8).bitwise_left_shift_(12).bitwise_or_((codes & 7).bitwise_left_shift_(9))


def _fill_floats(packed: Tensor, out: Tensor) -> None:
    """`out` (..., 2, n) becomes twice the E2M1 numbers of (..., n) bytes, zeros without a sign."""
    low, high = _nibbles(packed)
    out[..., 0, :] = _four_bit_floats(low).view(torch.float16)
    out[..., 1, :] = _four_bit_floats(high).view(torch.float16)
    out.mul_(2.0**15).add_(0.0)


def _mxfp4(raw: Tensor, out: Tensor) -> None:
    _fill_floats(raw[:, 1:], out.view(-1, 2, 16))
    exponent = raw[:, :1]
    if bool((exponent == 255).any()):
        raise NotFiniteError("a scale is not a number")
    out.view(-1, 32).mul_(_gather(_halved_powers(), exponent))


def _nvfp4(raw: Tensor, out: Tensor) -> None:
    """Four groups of 16; scales are E4M3 without a sign. A factor in another tensor is not applied here."""
    scale = raw[:, :4].contiguous()
    if bool((scale >= 127).any()):
        raise NotFiniteError("a scale is not a number")
    _fill_floats(raw[:, 4:].contiguous().view(-1, 4, 8), out.view(-1, 4, 2, 8))
    out.view(-1, 4, 16).mul_((scale.view(torch.float8_e4m3fn).float() / 2)[..., None])


def _codebook(raw: Tensor, kind: str, out: Tensor) -> None:
    """Types with a codebook or in base three, by the package that has the codebooks."""
    require_extra("gguf", f"numbers of type {kind} need the gguf package", "'coterie[gguf]'")
    import gguf

    packed, numbers = raw.numpy(), out.view(len(raw), -1)
    for start in range(0, len(raw), 256):  # its temporary arrays are many times larger than the numbers
        with np.errstate(invalid="ignore"):
            found = gguf.quants.dequantize(
                packed[start : start + 256].reshape(1, -1), gguf.GGMLQuantizationType[kind]
            )
        numbers[start : start + 256] = _finite(torch.from_numpy(found)).view(-1, 256)


_UNPACK: dict[str, Callable[[Tensor, Tensor], None]] = {
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q8_0": _q8_0,
    "Q2_K": _q2_k,
    "Q3_K": _q3_k,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
    "IQ4_NL": _iq4_nl,
    "IQ4_XS": _iq4_xs,
    "MXFP4": _mxfp4,
    "NVFP4": _nvfp4,
}
