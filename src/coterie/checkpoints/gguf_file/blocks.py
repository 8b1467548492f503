"""Unpack the block types of GGUF files into float32, bit for bit as ggml's reference does.

Each function takes B blocks as `raw` (B, bytes of a block), uint8, and fills `out`, contiguous float32 of B
times the block's numbers. A number is `scale * code`, `scale * code + offset` or `scale * code - offset`, in
float32 and in this order of operations. Torch's elementwise kernels on pieces that stay in the cache are many
times faster than numpy's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from coterie.config.extras import require_extra

PIECE = 1 << 20  # numbers unpacked at a time: few enough for a cache, many for an operation
_IQ4 = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
_E2M1 = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)  # doubled
CODEBOOKS = frozenset(("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "TQ1_0", "TQ2_0"))


class NotFiniteError(ValueError):
    """A scale of a block is infinite or not a number."""


def unpack_blocks(raw: Tensor, kind: str, out: Tensor) -> None:
    """Fill `out` from B blocks of type `kind`; both contiguous, on the CPU.

    Errors: `NotFiniteError` for a scale that is not finite; `ConfigError` where a type with a codebook needs
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


def _words(packed: Tensor) -> Tensor:
    """Bytes (..., 8 n) as int64 (..., n), so that one operation takes eight of them."""
    return packed.clone(memory_format=torch.contiguous_format).view(torch.int64)


def _each(byte: int) -> int:
    """A word of eight equal bytes."""
    return byte * 0x0101010101010101


def _moved(words: Tensor, by: int, mask: int) -> Tensor:
    """Bits of every byte moved `by` places up (down where negative), and those of `mask` kept."""
    moved = words << by if by > 0 else words >> -by if by else words
    return moved & _each(mask)


def _halves(words: Tensor) -> Tensor:
    """(B, 2, 8 n) codes of four bits from (B, n) words: all low halves, then all high ones."""
    codes = torch.empty(words.shape[0], 2, words.shape[1], dtype=torch.int64)
    torch.bitwise_and(words, _each(15), out=codes[:, 0])
    torch.bitwise_and(words >> 4, _each(15), out=codes[:, 1])
    return codes.view(torch.uint8)


@cache
def _bits_of_bytes() -> Tensor:
    """(256,) int64: the byte's bits, lowest first, each in the fifth bit of one of eight bytes."""
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
    return torch.from_numpy((bits << 4).view(np.int64).reshape(256))


@cache
def _pairs_of_bytes(table: tuple[int, ...]) -> Tensor:
    """(256,) int16: the numbers of the byte's low and high half, int8 each."""
    numbers = np.array(table, np.int8)
    pairs = np.stack((np.tile(numbers, 16), np.repeat(numbers, 16)), axis=-1)
    return torch.from_numpy(np.ascontiguousarray(pairs).view(np.int16).reshape(256))


@cache
def _halved_powers() -> Tensor:
    """(256,) half of each E8M0 scale `2 ** (e - 127)`, for numbers that are doubled."""
    return torch.from_numpy(np.ldexp(np.float32(1), np.arange(256) - 128))


def _gather(table: Tensor, codes: Tensor) -> Tensor:
    return table.index_select(0, codes.flatten().int()).view(codes.shape)


def _fifth_bits(raw: Tensor, at: int) -> Tensor:
    """(B, 32) codes of five bits: 32 fifth bits at byte `at`, then 16 bytes of halves."""
    low = _halves(_words(raw[:, at + 4 :])).view(-1, 32)
    return low.bitwise_or_(_gather(_bits_of_bytes(), raw[:, at : at + 4].contiguous()).view(torch.uint8))


def _two_bits(packed: Tensor) -> Tensor:
    """(B, 8, 4) int64, codes of 256 numbers from 64 bytes.

    Bits 2j of the 32 bytes of a half are its j-th 32 numbers.
    """
    words = _words(packed).view(-1, 2, 4)
    codes = torch.empty(len(words), 2, 4, 4, dtype=torch.int64)
    for j in range(4):
        torch.bitwise_and(words >> 2 * j, _each(3), out=codes[:, :, j])
    return codes.view(-1, 8, 4)


def _q3_k_codes(raw: Tensor) -> Tensor:
    codes, high = _two_bits(raw[:, 32:96]), _words(raw[:, :32])
    for part in range(8):  # bit `part` of byte l is the third bit of number 32 part + l
        codes[:, part].bitwise_or_(_moved(high, 2 - part, 4))
    return codes.view(torch.uint8)


def _q3_k_scales(raw: Tensor) -> Tensor:
    tops = raw[:, 104:108].contiguous()
    tops = torch.cat([(tops >> 2 * part).bitwise_and_(3) for part in range(4)], dim=1)
    return _half(raw, 108) * ((_halves(_words(raw[:, 96:104])).view(-1, 16) | tops << 4).float() - 32)


def _q6_k_codes(raw: Tensor) -> Tensor:
    low, tops = _words(raw[:, :128]).view(-1, 2, 2, 4), _words(raw[:, 128:192]).view(-1, 2, 4)
    codes = torch.empty(len(raw), 2, 4, 4, dtype=torch.int64)
    torch.bitwise_and(low, _each(15), out=codes[:, :, :2])
    torch.bitwise_and(low >> 4, _each(15), out=codes[:, :, 2:])
    for part in range(4):
        codes[:, :, part].bitwise_or_(_moved(tops, 4 - 2 * part, 48))
    return codes.view(torch.uint8)


def _from_table(packed: Tensor, table: tuple[int, ...]) -> Tensor:
    """(B, 2, n) int8 numbers of a table from (B, n) bytes: all low halves, then all high ones."""
    pairs = _gather(_pairs_of_bytes(table), packed.contiguous())
    numbers = torch.empty(len(packed), 2, packed.shape[1], dtype=torch.int8)
    numbers[:, 0], numbers[:, 1] = pairs << 8 >> 8, pairs >> 8
    return numbers


def _iq4_xs_scales(raw: Tensor) -> Tensor:
    tops, low = raw[:, 2:4].contiguous(), raw[:, 4:8].contiguous()
    tops = torch.stack([(tops >> 2 * part).bitwise_and_(3) for part in range(4)], dim=2).view(-1, 8)
    low = torch.stack((low & 15, low >> 4), dim=2).view(-1, 8)
    return _half(raw, 0) * ((low | tops << 4).float() - 32)


def _mxfp4_scales(raw: Tensor) -> Tensor:
    if bool((raw[:, 0] == 255).any()):
        raise NotFiniteError("a scale is not a number")
    return _gather(_halved_powers(), raw[:, :1])


def _nvfp4_scales(raw: Tensor) -> Tensor:
    """E4M3 without a sign, halved because the numbers are doubled."""
    scales = raw[:, :4].contiguous()
    if bool((scales >= 127).any()):
        raise NotFiniteError("a scale is not a number")
    return scales.view(torch.float8_e4m3fn).float() / 2


@dataclass(frozen=True)
class ScaledCodes:
    """A type whose numbers are `(code - zero) * scale`, with one scale for each `group` numbers.

    `codes`: bytes of (B, numbers of a block), in any shape, from blocks; in new memory if there is a zero.
    `scales`: (B, groups) float32 from blocks; `held`: the narrowest type that holds them. `bits`: 4 where
    `code - zero` is from -8 to 7, else 8.
    """

    bits: int
    group: int
    held: torch.dtype
    zero: int
    codes: Callable[[Tensor], Tensor]
    scales: Callable[[Tensor], Tensor]

    def unpack(self, raw: Tensor, out: Tensor) -> None:
        """See `unpack_blocks`."""
        codes = self.signed(raw)
        out.view(codes.shape).copy_(codes).view(-1, self.group).mul_(self.scales(raw).view(-1, 1))

    def signed(self, raw: Tensor) -> Tensor:
        """(B, numbers of a block) int8: `code - zero`."""
        codes = self.codes(raw).view(torch.int8).view(len(raw), -1)
        return codes.sub_(self.zero) if self.zero else codes


def _first_half(raw: Tensor) -> Tensor:
    return _half(raw, 0)


_F16, _F32 = torch.float16, torch.float32
SCALED = {
    "Q4_0": ScaledCodes(4, 32, _F16, 8, lambda raw: _halves(_words(raw[:, 2:])), _first_half),
    "Q5_0": ScaledCodes(8, 32, _F16, 16, lambda raw: _fifth_bits(raw, 2), _first_half),
    "Q8_0": ScaledCodes(8, 32, _F16, 0, lambda raw: raw.view(torch.int8)[:, 2:], _first_half),
    "Q3_K": ScaledCodes(4, 16, _F32, 4, _q3_k_codes, _q3_k_scales),
    "Q6_K": ScaledCodes(
        8, 16, _F32, 32, _q6_k_codes, lambda raw: _half(raw, 208) * raw[:, 192:208].view(torch.int8)
    ),
    "IQ4_NL": ScaledCodes(8, 32, _F16, 0, lambda raw: _from_table(raw[:, 2:], _IQ4), _first_half),
    "IQ4_XS": ScaledCodes(
        8, 32, _F32, 0, lambda raw: _from_table(raw[:, 8:].reshape(-1, 16), _IQ4), _iq4_xs_scales
    ),
    "MXFP4": ScaledCodes(8, 32, torch.bfloat16, 0, lambda raw: _from_table(raw[:, 1:], _E2M1), _mxfp4_scales),
    "NVFP4": ScaledCodes(
        8, 16, _F32, 0, lambda raw: _from_table(raw[:, 4:].reshape(-1, 8), _E2M1), _nvfp4_scales
    ),
}


def _q4_1(raw: Tensor, out: Tensor) -> None:
    out.view(-1, 32).copy_(_halves(_words(raw[:, 4:])).view(-1, 32)).mul_(_half(raw, 0)).add_(_half(raw, 2))


def _q5_1(raw: Tensor, out: Tensor) -> None:
    out.view(-1, 32).copy_(_fifth_bits(raw, 4)).mul_(_half(raw, 0)).add_(_half(raw, 2))


def _q2_k(raw: Tensor, out: Tensor) -> None:
    scale, offset = _halves(_words(raw[:, :16])).unbind(1)
    numbers = out.view(-1, 16, 16).copy_(_two_bits(raw[:, 16:80]).view(torch.uint8).view(-1, 16, 16))
    numbers.mul_((_half(raw, 80) * scale)[..., None]).sub_((_half(raw, 82) * offset)[..., None])


def _six_bit_scales(raw: Tensor) -> tuple[Tensor, Tensor]:
    """(B, 8, 1) scales and offsets of Q4_K and Q5_K: d and dmin, then eight six-bit numbers of each."""
    words = raw[:, 4:16].clone(memory_format=torch.contiguous_format).view(torch.int32)
    first, second, third = words.unbind(1)
    low, six, tops = 0x0F0F0F0F, 0x3F3F3F3F, 0x30303030  # of each byte
    scale = torch.stack((first & six, (third & low) | (first >> 2 & tops)), dim=1).view(torch.uint8)
    offset = torch.stack((second & six, (third >> 4 & low) | (second >> 2 & tops)), dim=1).view(torch.uint8)
    return (_half(raw, 0) * scale)[..., None], (_half(raw, 2) * offset)[..., None]


def _q4_k(raw: Tensor, out: Tensor) -> None:
    scale, offset = _six_bit_scales(raw)
    codes = _halves(_words(raw[:, 16:]).view(-1, 4))
    out.view(-1, 8, 32).copy_(codes.view(-1, 8, 32)).mul_(scale).sub_(offset)


def _q5_k(raw: Tensor, out: Tensor) -> None:
    scale, offset = _six_bit_scales(raw)
    codes = _halves(_words(raw[:, 48:]).view(-1, 4)).view(torch.int64).view(-1, 8, 4)
    fifth = _words(raw[:, 16:48])
    for part in range(8):
        codes[:, part].bitwise_or_(_moved(fifth, 4 - part, 16))
    out.view(-1, 8, 32).copy_(codes.view(torch.uint8)).mul_(scale).sub_(offset)


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
        numbers[start : start + 256] = torch.from_numpy(found).view(-1, 256)
    _finite(out.sum())


_UNPACK: dict[str, Callable[[Tensor, Tensor], None]] = {kind: form.unpack for kind, form in SCALED.items()}
_UNPACK |= {
    "Q4_1": _q4_1,
    "Q5_1": _q5_1,
    "Q2_K": _q2_k,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
}
