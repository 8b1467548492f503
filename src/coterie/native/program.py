"""A table of operations under construction: their fields, their buffers, and the tensors that they read.

Legend: T tokens, D width of a row.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Collection
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from coterie.config.base import Settings
from coterie.native.layout import BARRIER, FIELDS, FIRST, KERNEL, SERIAL
from coterie.native.runner import Kernel, address

PLAIN = {torch.float32: 0, torch.bfloat16: 1}  # kinds of numbers that kernels read one by one


class CannotPlan(Exception):
    """Why a model has no native plan, one line."""


def check_known(config: Settings, where: str, known: Collection[str]) -> None:
    """Refuse a setting that the lowering does not know and that is not as by default."""
    for name, info in type(config).model_fields.items():
        if name not in known and getattr(config, name) != info.get_default(call_default_factory=True):
            raise CannotPlan(f"{where} with {name} {getattr(config, name)}")


@dataclass(frozen=True)
class Rows:
    """Rows of float32 activations: the address of the first, bytes from row to row, numbers of a row."""

    address: int
    stride: int
    width: int

    def part(self, start: int, width: int) -> Rows:
        """`width` columns from `start` on."""
        return Rows(self.address + 4 * start, self.stride, width)


# Rows, bits of a code and numbers of a block, and the digits that were made of those rows for such codes.
Made = tuple[tuple[Rows, int, int], Rows]


class StepProgram:
    """Operations in order. It owns every tensor whose address they hold.

    `most`: tokens of a step at most. `copies`: (a tensor that was copied, its version then), by which a plan
    notices that a copy is out of date. `kinds`: of products. `digits`: the last ones, while they hold.
    `compiles`: as `Lowering`.
    """

    def __init__(self, most: int, compiles: bool = True) -> None:
        self.most, self.compiles = most, compiles
        self.ops: list[list[int]] = []
        self.kept: list[Tensor] = []
        self.callbacks: list[Any] = []
        self.copies: list[tuple[Tensor, int]] = []
        self.kinds: set[int] = set()
        self.digits: Made | None = None

    def add(self, kernel: Kernel, *fields: int | float, serial: bool = True, barrier: bool = True) -> None:
        """One operation. `serial`: one thread does it, which costs less than waiting for others.

        Without `barrier` the next one may begin before this one is finished.
        """
        row = [0] * FIELDS
        row[KERNEL] = address(kernel) if self.compiles else 0
        row[SERIAL], row[BARRIER] = int(serial), int(barrier)
        for index, field in enumerate(fields):
            whole = field if isinstance(field, int) else struct.unpack("<q", struct.pack("<d", field))[0]
            row[FIRST + index] = int(whole)
        self.ops.append(row)
        self.digits = None

    def cut(self) -> int:
        """The number of the next operation, at which a run of the table may begin."""
        self.digits = None
        return len(self.ops)

    def own(self, tensor: Tensor) -> int:
        """The address of a tensor that the program made, and keeps."""
        self.kept.append(tensor)
        return tensor.data_ptr()

    def of(self, tensor: Tensor) -> int:
        """The address of a tensor of the model, read in place."""
        self.kept.append(tensor)
        return tensor.data_ptr()

    def calls(self, function: Any) -> int:
        """The address of a ctypes callback, which the program keeps."""
        self.callbacks.append(function)
        return int(ctypes.cast(function, ctypes.c_void_p).value or 0)

    def copied_from(self, *tensors: Tensor) -> None:
        """Note that the program holds numbers made from these tensors."""
        self.copies += [(tensor, version(tensor)) for tensor in tensors]

    def floats(self, *shape: int) -> int:
        """The address of new float32 zeros."""
        return self.own(torch.zeros(*shape))

    def whole(self, *shape: int) -> int:
        """The address of new int64 zeros."""
        return self.own(torch.zeros(*shape, dtype=torch.int64))

    def rows(self, width: int, count: int | None = None) -> Rows:
        """A new buffer of `count` rows (None: one per token)."""
        return Rows(self.floats(count or self.most, width), 4 * width, width)

    def vector(self, tensor: Tensor) -> tuple[int, int]:
        """(address, kind) of a tensor that is read number by number."""
        if tensor.dtype not in PLAIN or not tensor.is_contiguous():
            raise CannotPlan(f"a vector of {tensor.dtype} numbers")
        return self.of(tensor), PLAIN[tensor.dtype]

    def table(self) -> Tensor:
        """The operations as (N, FIELDS) int64. Threads wait only where another one reads what they wrote."""
        for row, following in pairwise(self.ops):
            if row[SERIAL] and following[SERIAL]:
                row[BARRIER] = 0
        return torch.tensor(self.ops, dtype=torch.int64)

    def copies_are_current(self) -> bool:
        """Whether what was copied is as it was then."""
        return all(version(tensor) == then for tensor, then in self.copies)


def version(tensor: Tensor) -> int:
    """How often a tensor was written to; 0 for one made under inference mode, which keeps no count."""
    return 0 if tensor.is_inference() else tensor._version
