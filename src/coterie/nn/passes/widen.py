"""Blocks of 8 and 4 bit codes (`nn.quantised_tensor`) as plain numbers: N rows of I numbers, blocks of b."""

# mypy: disable-error-code="no-untyped-def,call-arg"

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from coterie.jit.compiled import fast, inline
from coterie.jit.primitives import codes_at, floats, ints, shorts, unbits
from coterie.nn.passes.numbers import FIRST, KIND, ROWS, share, stored

_LANES = 16
_F32, _BF16 = 0, 1
_I8, _I16, _I32 = (ir.IntType(size) for size in (8, 16, 32))
_CODES, _HALVES, _WHOLE = (ir.VectorType(kind, _LANES) for kind in (_I8, _I16, _I32))
_REAL = ir.VectorType(ir.FloatType(), _LANES)


def _all(value: int) -> Any:
    return ir.Constant(_WHOLE, [value] * _LANES)


def _write(b: Any, kind: int, whole: Any, scale: Any, address: Any) -> None:
    """16 codes around 0 times their scale, rounded once, to an address."""
    nothing = ir.Constant(_REAL, ir.Undefined)
    scales = b.shuffle_vector(b.insert_element(nothing, scale, _I32(0)), nothing, _all(0))
    numbers: Any = b.fmul(b.sitofp(whole, _REAL), scales)
    if kind == _BF16:
        raw = b.bitcast(numbers, _WHOLE)
        even = b.and_(b.lshr(raw, _all(16)), _all(1))
        numbers = b.trunc(b.lshr(b.add(b.add(raw, _all(0x7FFF)), even), _all(16)), _HALVES)
    b.store(numbers, b.inttoptr(address, numbers.type.as_pointer())).align = 2


@intrinsic(prefer_literal=True)
def _write_codes(typing: Any, bits: Any, kind: Any, codes: Any, scale: Any, y: Any, second: Any) -> Any:
    """The numbers of 16 bytes of codes: to `y`, and with 4 bits those of the high bits to `second`.

    `bits` and `kind` (0: float32, 1: bfloat16) are literals.
    """
    width, of_y = bits.literal_value, kind.literal_value

    def generate(context: Any, b: Any, signature: Any, args: Any) -> Any:
        codes, scale, y, second = args[2:]
        load = b.load(b.inttoptr(codes, _CODES.as_pointer()))
        load.align = 1
        if width == 8:
            _write(b, of_y, b.sext(load, _WHOLE), scale, y)
        else:
            both = b.zext(load, _WHOLE)
            _write(b, of_y, b.sub(b.and_(both, _all(15)), _all(8)), scale, y)
            _write(b, of_y, b.sub(b.lshr(both, _all(4)), _all(8)), scale, second)
        return context.get_dummy_value()

    return types.void(bits, kind, types.int64, types.float32, types.int64, types.int64), generate


@inline
def _scale(scales, block, kind):
    if kind == _F32:
        return floats(scales, block + 1)[block]
    return unbits(np.int32(shorts(scales, block + 1)[block]) << np.int32(16))


@inline
def _whole_blocks(bits, kind, codes, scales, scale_kind, y, count, size):
    """`count` blocks of a multiple of 32 numbers; `bits` and `kind` are literals."""
    number = 4 if kind == _F32 else 2
    vectors = size * bits // 8 // _LANES
    for block in range(count):
        scale = _scale(scales, block, scale_kind)
        for part in range(vectors):
            at = y + (block * size + part * _LANES) * number
            _write_codes(bits, kind, codes + (block * vectors + part) * _LANES, scale, at,
                         at + size // 2 * number)  # fmt: skip


@fast
def _by_vectors(bits, kind, codes, scales, scale_kind, y, count, size):
    if bits == 8 and kind == _F32:
        _whole_blocks(8, _F32, codes, scales, scale_kind, y, count, size)
    elif bits == 8:
        _whole_blocks(8, _BF16, codes, scales, scale_kind, y, count, size)
    elif kind == _F32:
        _whole_blocks(4, _F32, codes, scales, scale_kind, y, count, size)
    else:
        _whole_blocks(4, _BF16, codes, scales, scale_kind, y, count, size)


@fast
def _by_numbers(bits, codes, scales, scale_kind, y, size):
    """One row number by number: blocks of any size, the last of which may be short."""
    width, half, num_bytes = y.shape[0], size // 2, size * bits // 8
    for j in range(width):
        block, place = j // size, j % size
        code = codes_at(codes + block * num_bytes, num_bytes)
        if bits == 8:
            whole = np.int32(code[place])
        elif place < half:
            whole = np.int32(code[place] & 15) - np.int32(8)
        else:
            whole = np.int32((code[place - half] >> 4) & 15) - np.int32(8)
        y[j] = stored(np.float32(whole) * _scale(scales, block, scale_kind), y)


def widen(context: int) -> None:
    """I, bits, b, kind of the scales (0: float32, 1: bfloat16); addresses of: codes, scales, result."""
    c = ints(context, FIRST + 7)
    width, bits, size, scale_kind, kind = c[FIRST], c[FIRST + 1], c[FIRST + 2], c[FIRST + 3], c[KIND]
    blocks = (width + size - 1) // size
    code_row, scale_row = blocks * size * bits // 8, blocks * (4 if scale_kind == _F32 else 2)
    row = width * (4 if kind == _F32 else 2)
    first, last = share(context, c[ROWS])
    codes, scales, y = c[FIRST + 4] + first * code_row, c[FIRST + 5] + first * scale_row, c[FIRST + 6]
    y += first * row
    if width % size == 0 and size % (2 * _LANES) == 0:
        _by_vectors(bits, kind, codes, scales, scale_kind, y, (last - first) * blocks, size)
    else:
        for r in range(last - first):
            at = codes + r * code_row, scales + r * scale_row
            if kind == _F32:
                _by_numbers(bits, *at, scale_kind, floats(y + r * row, width), size)
            else:
                _by_numbers(bits, *at, scale_kind, shorts(y + r * row, width), size)
