"""Products that numba emits as LLVM vector code for the processor at hand.

All arguments are addresses, byte strides and counts (int64), so that no array object is made. LLVM splits a
vector of 16 floats into what the processor has. Every result is one fixed sum: it depends neither on how many
rows are computed together nor on which thread does it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

# How numbers are stored. The last four: blocks of 8 or 4 bits with bfloat16 or float32 scales
# (`nn.quantised_tensor`).
F32, BF16, INT8, INT8_F32, INT4, INT4_F32 = range(6)
LANES = 16  # numbers of one vector
LINE = 64  # bytes of a cache line
SIZES = {F32: 4, BF16: 2}  # bytes of a plain number

_I8, _I16, _I32, I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
_FLOAT = ir.FloatType()
_VECTOR, _WIDE = ir.VectorType(_FLOAT, LANES), ir.VectorType(_I32, LANES)

Value = Any  # llvmlite's values have no useful types


def _constant(kind: Any, value: float) -> Value:
    return ir.Constant(kind, [value] * kind.count)


def load(b: Any, address: Value, kind: Any) -> Value:
    """A vector or number of a kind, wherever it begins."""
    value = b.load(b.inttoptr(address, kind.as_pointer()))
    value.align = 1
    return value


def at(b: Any, address: Value, index: Value, size: int) -> Value:
    """The address of number `index`."""
    return b.add(address, b.mul(index, I64(size)))


def _fma(b: Any, x: Value, y: Value, z: Value) -> Value:
    name = "llvm.fma.f32" if x.type == _FLOAT else f"llvm.fma.v{LANES}f32"
    return b.call(
        cgutils.get_or_insert_function(b.module, ir.FunctionType(x.type, [x.type] * 3), name), [x, y, z]
    )


def splat(b: Any, scalar: Value, count: int = LANES) -> Value:
    """A vector of the same number."""
    undefined = ir.Constant(ir.VectorType(_FLOAT, count), ir.Undefined)
    one = b.insert_element(undefined, scalar, _I32(0))
    return b.shuffle_vector(one, undefined, _lanes([0] * count))


def folded(b: Any, vectors: list[Value]) -> Value:
    """The sums of 1, 2, 4, 8 or 16 vectors as one vector with a number for each.

    Each is the same tree whatever the others: of lanes 8 apart, then 4, 2 and 1 apart.
    """
    lanes = LANES  # that each sum still has
    while lanes > 1:
        half = lanes // 2
        pairs = [vectors[at : at + 2] for at in range(0, len(vectors), 2)]
        vectors = []
        for pair in pairs:
            starts = range(0, LANES * len(pair) if len(pair) == 2 else pair[0].type.count, lanes)
            parts = [
                b.shuffle_vector(
                    pair[0], pair[-1], _lanes([start + shift + j for start in starts for j in range(half)])
                )
                for shift in (0, half)
            ]
            vectors.append(b.fadd(*parts))
        lanes = half
    return vectors[0]


def _lanes(chosen: list[int]) -> Value:
    return ir.Constant(ir.VectorType(_I32, len(chosen)), chosen)


def prefetch(b: Any, address: Value) -> None:
    """Ask for the cache line of an address."""
    kind = ir.FunctionType(ir.VoidType(), [_I8.as_pointer(), _I32, _I32, _I32])
    fetch = cgutils.get_or_insert_function(b.module, kind, "llvm.prefetch.p0")
    b.call(fetch, [b.inttoptr(address, _I8.as_pointer()), _I32(0), _I32(3), _I32(1)])


def _widen(b: Any, raw: Value) -> Value:
    """float32 of bfloat16 bits, one or a vector."""
    vector = isinstance(raw.type, ir.VectorType)
    wide, shift = (_WIDE, _constant(_WIDE, 16)) if vector else (_I32, _I32(16))
    return b.bitcast(b.shl(b.zext(raw, wide), shift), _VECTOR if vector else _FLOAT)


def vector(b: Any, kind: int, address: Value, index: Value) -> Value:
    """16 plain numbers from `index` on."""
    if kind == F32:
        return load(b, at(b, address, index, 4), _VECTOR)
    return _widen(b, load(b, at(b, address, index, 2), ir.VectorType(_I16, LANES)))


def number(b: Any, kind: int, address: Value, index: Value) -> Value:
    """The plain number at `index`."""
    if kind == F32:
        return load(b, at(b, address, index, 4), _FLOAT)
    return _widen(b, load(b, at(b, address, index, 2), _I16))


class Sums:
    """One running sum for each of R rows and T tokens."""

    def __init__(self, b: Any, rows: int, tokens: int, kind: Any = _VECTOR) -> None:
        zero = _constant(kind, 0.0) if kind is _VECTOR else kind(0.0)
        self.b = b
        self.slots = [[cgutils.alloca_once_value(b, zero) for _ in range(tokens)] for _ in range(rows)]
        self.zero = zero

    def add(self, row: int, token: int, x: Value, y: Value) -> None:
        """Add `x * y`."""
        slot = self.slots[row][token]
        self.b.store(_fma(self.b, x, y, self.b.load(slot)), slot)

    def get(self, row: int, token: int) -> Value:
        """A sum as it stands."""
        return self.b.load(self.slots[row][token])

    def clear(self) -> None:
        """Begin anew."""
        for slots in self.slots:
            for slot in slots:
                self.b.store(self.zero, slot)


class RowAddresses:
    """The addresses of R rows or T tokens of a matrix."""

    def __init__(self, b: Any, address: Value, stride: Value, count: int) -> None:
        self.stride = stride
        self.each = [b.add(address, b.mul(stride, I64(row))) for row in range(count)]


def _fetch_ahead(b: Any, rows: RowAddresses, following: Value, offset: Value) -> None:
    """Ask for the rows that the next call reads, `following` bytes on."""
    for row in rows.each:
        prefetch(b, b.add(b.add(row, following), offset))


def _plain_sums(
    b: Any, kind: int, w: RowAddresses, following: Value, x: RowAddresses, count: Value, sums: Sums
) -> None:
    """Sums over plain numbers: whole cache lines of weights, then those that are left one by one."""
    size = 4 if kind == F32 else 2
    step = LINE // size
    with cgutils.for_range(b, b.sdiv(count, I64(step)), intp=I64) as loop:
        start = b.mul(loop.index, I64(step))
        _fetch_ahead(b, w, following, b.mul(loop.index, I64(LINE)))
        for part in range(0, step, LANES):
            index = b.add(start, I64(part))
            read = [vector(b, F32, token, index) for token in x.each]
            for r, row in enumerate(w.each):
                weights = vector(b, kind, row, index)
                for t, numbers in enumerate(read):
                    sums.add(r, t, weights, numbers)
    whole = b.mul(b.sdiv(count, I64(step)), I64(step))
    with cgutils.for_range(b, b.sub(count, whole), intp=I64) as loop:
        index = b.add(whole, loop.index)
        read = [splat(b, number(b, F32, token, index)) for token in x.each]
        for r, row in enumerate(w.each):
            only_one = b.insert_element(_constant(_VECTOR, 0.0), number(b, kind, row, index), _I32(0))
            for t, numbers in enumerate(read):
                sums.add(r, t, only_one, numbers)


def _coded(
    b: Any, kind: int, row: Value, block: Value, size: Value, part: Value
) -> list[tuple[Value, Value]]:
    """32 numbers of a block as two vectors, each with its place in the block."""
    if kind in (INT8, INT8_F32):
        first = b.mul(part, I64(2 * LANES))
        both = []
        for place in (first, b.add(first, I64(LANES))):
            address = b.add(b.add(row, b.mul(block, size)), place)
            codes = b.sext(load(b, address, ir.VectorType(_I8, LANES)), _WIDE)
            both.append((b.sitofp(codes, _VECTOR), place))
        return both
    half = b.lshr(size, I64(1))
    place = b.mul(part, I64(LANES))
    raw = b.zext(load(b, b.add(b.add(row, b.mul(block, half)), place), ir.VectorType(_I8, LANES)), _WIDE)
    low, high = b.and_(raw, _constant(_WIDE, 15)), b.lshr(raw, _constant(_WIDE, 4))
    signed = [b.sitofp(b.sub(codes, _constant(_WIDE, 8)), _VECTOR) for codes in (low, high)]
    return [(signed[0], place), (signed[1], b.add(half, place))]


def _coded_sums(
    b: Any,
    kind: int,
    w: RowAddresses,
    following: Value,
    scales: RowAddresses,
    size: Value,
    x: RowAddresses,
    count: Value,
    sums: Sums,
) -> None:
    """Sums over blocks of codes: one for each block, which its scale then multiplies."""
    part_sums = Sums(b, len(w.each), len(x.each))
    code_bytes = size if kind in (INT8, INT8_F32) else b.lshr(size, I64(1))
    with cgutils.for_range(b, b.sdiv(count, size), intp=I64) as blocks:
        block = blocks.index
        part_sums.clear()
        _fetch_ahead(b, w, following, b.mul(block, code_bytes))
        with cgutils.for_range(b, b.sdiv(size, I64(2 * LANES)), intp=I64) as parts:
            for r, row in enumerate(w.each):
                for codes, place in _coded(b, kind, row, block, size, parts.index):
                    index = b.add(b.mul(block, size), place)
                    for t, token in enumerate(x.each):
                        part_sums.add(r, t, codes, vector(b, F32, token, index))
        for r, row in enumerate(scales.each):
            scale = splat(b, number(b, F32 if kind in (INT8_F32, INT4_F32) else BF16, row, block))
            for t in range(len(x.each)):
                sums.add(r, t, part_sums.get(r, t), scale)


def _emit_dot(kind: int, rows: int, tokens: int) -> Callable[..., Any]:
    def generate(context: Any, b: Any, signature: Any, args: Any) -> Any:
        w, w_stride, following, scales, scale_stride, size, x, x_stride, count, y, y_stride, step = args[3:-2]
        factor, add = args[-2:]
        sums = Sums(b, rows, tokens)
        of_w, of_x = RowAddresses(b, w, w_stride, rows), RowAddresses(b, x, x_stride, tokens)
        if kind in (F32, BF16):
            _plain_sums(b, kind, of_w, following, of_x, count, sums)
        else:
            of_scales = RowAddresses(b, scales, scale_stride, rows)
            _coded_sums(b, kind, of_w, following, of_scales, size, of_x, count, sums)
        factors = splat(b, factor, rows)
        adds = b.icmp_signed("!=", add, I64(0))
        outs = RowAddresses(b, y, y_stride, tokens).each
        totals = [b.fmul(folded(b, [sums.get(r, t) for r in range(rows)]), factors) for t in range(tokens)]
        # What is there is only read where it counts: it may be far away.
        with b.if_else(adds) as branches:
            for branch, reads in zip(branches, (True, False), strict=True):
                with branch:
                    for out, total in zip(outs, totals, strict=True):
                        for r in range(rows):
                            place = b.inttoptr(b.add(out, b.mul(step, I64(r))), _FLOAT.as_pointer())
                            one = b.extract_element(total, _I32(r))
                            b.store(b.fadd(one, b.load(place)) if reads else one, place)
        return context.get_dummy_value()

    return generate


@intrinsic(prefer_literal=True)
def dot(
    typing: Any, kind: Any, rows: Any, tokens: Any,
    w: Any, w_stride: Any, following: Any, scales: Any, scale_stride: Any, size: Any, x: Any, x_stride: Any,
    count: Any, y: Any, y_stride: Any, step: Any, factor: Any, add: Any,
) -> Any:  # fmt: skip
    """`y[t, r] = factor * sum_k w[r, k] x[t, k]`, plus what is there where `add`.

    `kind`, `rows` and `tokens` are literals: R rows of weights of that kind against T rows of float32.
    `following`: bytes from a row to the one that the next call reads in its place. `size`: numbers of a
    block, a multiple of 32 that divides `count`. y is float32, `y_stride` bytes per t and `step` per r.
    """
    literals = [kind.literal_value, rows.literal_value, tokens.literal_value]
    signature = types.void(kind, rows, tokens, *([types.int64] * 12), types.float32, types.int64)
    return signature, _emit_dot(*literals)
