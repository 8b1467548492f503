"""What products are made of: LLVM vector code that numba emits for the processor at hand.

All arguments are addresses, byte strides and counts (int64), so that no array object is made. LLVM splits a
vector of 16 floats into what the processor has. Every result is one fixed sum: it depends neither on how many
rows are computed together nor on which thread does it.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils

# How numbers are stored. Those after two: blocks of 8 or 4 bits with bfloat16 or float32 scales
# (`nn.quantised_tensor`).
F32, BF16, INT8, INT8_F32, INT4, INT4_F32 = range(6)
LANES = 16  # numbers of one vector
LINE = 64  # bytes of a cache line
SIZES = {F32: 4, BF16: 2}  # bytes of a plain number

_I8, _I16, _I32, I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
_FLOAT = ir.FloatType()
_VECTOR, _WIDE = ir.VectorType(_FLOAT, LANES), ir.VectorType(_I32, LANES)

Value = Any  # llvmlite's values have no useful types


def constant(kind: Any, value: float) -> Value:
    """A vector that is the same in every lane."""
    return ir.Constant(kind, [value] * kind.count)


def load(b: Any, address: Value, kind: Any) -> Value:
    """A vector or number of a kind, wherever it begins."""
    value = b.load(b.inttoptr(address, kind.as_pointer()))
    value.align = 1
    return value


def at(b: Any, address: Value, index: Value, size: int) -> Value:
    """The address of number `index`."""
    return b.add(address, b.mul(index, I64(size)))


def fma(b: Any, x: Value, y: Value, z: Value) -> Value:
    """`x * y + z`, rounded once."""
    name = "llvm.fma.f32" if x.type == _FLOAT else f"llvm.fma.v{x.type.count}f32"
    return b.call(
        cgutils.get_or_insert_function(b.module, ir.FunctionType(x.type, [x.type] * 3), name), [x, y, z]
    )


def splat(b: Any, scalar: Value, count: int = LANES) -> Value:
    """A vector of the same number."""
    undefined = ir.Constant(ir.VectorType(_FLOAT, count), ir.Undefined)
    one = b.insert_element(undefined, scalar, _I32(0))
    return b.shuffle_vector(one, undefined, lanes([0] * count))


def folded(b: Any, vectors: list[Value]) -> Value:
    """The sums of 1, 2, 4, 8 or 16 vectors as one vector with a number for each.

    Each is the same tree whatever the others: of the halves of its lanes, then of quarters, and so on.
    """
    each = whole = vectors[0].type.count  # lanes that each sum still has
    while each > 1:
        half = each // 2
        pairs = [vectors[at : at + 2] for at in range(0, len(vectors), 2)]
        vectors = []
        for pair in pairs:
            starts = range(0, whole * len(pair) if len(pair) == 2 else pair[0].type.count, each)
            parts = [
                b.shuffle_vector(
                    pair[0], pair[-1], lanes([start + shift + j for start in starts for j in range(half)])
                )
                for shift in (0, half)
            ]
            vectors.append(b.fadd(*parts))
        each = half
    return vectors[0]


def lanes(chosen: list[int]) -> Value:
    """What a shuffle takes, in order."""
    return ir.Constant(ir.VectorType(_I32, len(chosen)), chosen)


def prefetch(b: Any, address: Value) -> None:
    """Ask for the cache line of an address."""
    kind = ir.FunctionType(ir.VoidType(), [_I8.as_pointer(), _I32, _I32, _I32])
    fetch = cgutils.get_or_insert_function(b.module, kind, "llvm.prefetch.p0")
    b.call(fetch, [b.inttoptr(address, _I8.as_pointer()), _I32(0), _I32(3), _I32(1)])


def _widen(b: Any, raw: Value) -> Value:
    """float32 of bfloat16 bits, one or a vector."""
    vector = isinstance(raw.type, ir.VectorType)
    wide, shift = (_WIDE, constant(_WIDE, 16)) if vector else (_I32, _I32(16))
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
        zero = kind(0.0) if kind == _FLOAT else constant(kind, 0.0)
        self.b = b
        self.slots = [[cgutils.alloca_once_value(b, zero) for _ in range(tokens)] for _ in range(rows)]
        self.zero = zero

    def add(self, row: int, token: int, x: Value, y: Value) -> None:
        """Add `x * y`."""
        slot = self.slots[row][token]
        self.b.store(fma(self.b, x, y, self.b.load(slot)), slot)

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


def store_sums(b: Any, sums: Sums, y: Value, y_stride: Value, step: Value, factor: Value, add: Value) -> None:
    """Write `factor` times each sum: `y_stride` bytes per token and `step` per row of weights."""
    rows, tokens = len(sums.slots), len(sums.slots[0])
    factors = splat(b, factor, rows)
    outs = RowAddresses(b, y, y_stride, tokens).each
    totals = [b.fmul(folded(b, [sums.get(r, t) for r in range(rows)]), factors) for t in range(tokens)]
    # What is there is only read where it counts: it may be far away.
    with b.if_else(b.icmp_signed("!=", add, I64(0))) as branches:
        for branch, reads in zip(branches, (True, False), strict=True):
            with branch:
                for out, total in zip(outs, totals, strict=True):
                    for r in range(rows):
                        place = b.inttoptr(b.add(out, b.mul(step, I64(r))), _FLOAT.as_pointer())
                        one = b.extract_element(total, _I32(r))
                        b.store(b.fadd(one, b.load(place)) if reads else one, place)


def add_left(
    b: Any, kind: int, w: RowAddresses, x: RowAddresses, first: Value, count: Value, sums: Sums
) -> None:
    """Add the products of numbers from `first` on one by one: those that fill no vector."""
    with cgutils.for_range(b, b.sub(count, first), intp=I64) as loop:
        index = b.add(first, loop.index)
        read = [splat(b, number(b, F32, token, index)) for token in x.each]
        for r, row in enumerate(w.each):
            only_one = b.insert_element(constant(_VECTOR, 0.0), number(b, kind, row, index), _I32(0))
            for t, numbers in enumerate(read):
                sums.add(r, t, only_one, numbers)
