"""bitsandbytes: 4 bits from a table (NF4, FP4) in blocks of the flattened matrix, and 8 bits by row.

O rows, I columns of a matrix, N = O I.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from coterie.checkpoints.quantised.encoded import Decoding, Parts, Shape
from coterie.checkpoints.quantised.finder import Finder
from coterie.checkpoints.quantised.fp8 import FLOATS
from coterie.config import CheckpointError
from coterie.config.json_text import JsonError, JsonLimits, parse_json_object

_STATE = ".quant_state.bitsandbytes__"
_TABLES = ("nf4", "fp4")
_LIMITS = JsonLimits(size=10_000, depth=3, digits=20)
_LARGEST_BLOCK = 1 << 16


@dataclass(frozen=True)
class Table4(Decoding):
    """`weight` bytes (N / 2, 1), the first of two numbers in the high half, and `table` (16,).

    `largest` has one number per `block` numbers of the flattened matrix. Where these are bytes, they mean
    `nested_table[byte] * nested_largest[of their block] + offset`.
    """

    kind: str
    block: int
    nested_block: int = 0
    offset: float = 0.0

    @property
    def label(self) -> str:
        """The table, the block, and whether the scales are quantised too."""
        nested = ", scales in 8 bits" if self.nested_block else ""
        return f"bitsandbytes {self.kind}, blocks of {self.block:,}{nested}"

    def decode(self, parts: Parts, shape: Shape) -> Tensor:
        """(O, I) float32."""
        count = math.prod(shape)
        octets = parts["weight"].flatten()
        codes = torch.arange(256)
        pairs = torch.stack((parts["table"].float()[codes >> 4], parts["table"].float()[codes & 15]), dim=-1)
        flat = pairs[octets.to(torch.int32)].flatten()[:count]
        largest = parts["largest"]
        if self.nested_block:
            outer = parts["nested_largest"].float().repeat_interleave(self.nested_block)[: len(largest)]
            largest = parts["nested_table"].float()[largest.to(torch.int32)] * outer + self.offset
        blocks = torch.nn.functional.pad(flat, (0, len(largest) * self.block - count)).view(-1, self.block)
        return blocks.mul_(largest.float()[:, None]).flatten()[:count].view(shape)


@dataclass(frozen=True)
class Rows8(Decoding):
    """`weight` int8 (O, I), `scale` float32 (O,): the number that 127 stands for."""

    @property
    def label(self) -> str:
        """The kind."""
        return "bitsandbytes int8, a scale per row"

    def decode(self, parts: Parts, shape: Shape) -> Tensor:
        """(O, I) float32."""
        return parts["weight"].float() * (parts["scale"].float() / 127)[:, None]

    def grid(self, part: Callable[[str], Tensor | None], shape: Shape) -> tuple[int, int] | None:
        """One block per row."""
        return 8, shape[1]

    def codes(self, parts: Parts, shape: Shape) -> tuple[Tensor, Tensor]:
        """The numbers as they are."""
        return parts["weight"], (parts["scale"].float() / 127)[:, None]


def collect(found: Finder) -> None:
    """4 bits: `X.weight` with `X.weight.absmax`, `.quant_map` and `.quant_state...`; 8 bits: with `X.SCB`.

    Errors: `CheckpointError` for a missing part, a state that cannot be read, and wrong shapes.
    """
    for name, _ in list(found.weights("U8")):
        _add_table(found, name)
    for name, stem in list(found.weights("I8")):
        shape = found.matrix(name)
        scale = found.checked(name, f"{stem}.SCB", ("F32",), shape[:1])
        _check_order(found, f"{stem}.weight_format")
        found.add(name, shape, Rows8(), weight=name, scale=scale)
    found.drop(".weight_format")


def _add_table(found: Finder, name: str) -> None:
    states = [name + _STATE + table for table in _TABLES if name + _STATE + table in found.entries]
    if not states:
        found.place(name, name + _STATE + "nf4")
    state = _state(found, name, states[0])
    kind, block, shape = state["quant_type"], state["blocksize"], tuple(state["shape"])
    file, entry = found.entries[name]
    count = math.prod(shape)
    if math.prod(entry.shape) != (count + 1) // 2:
        raise CheckpointError(
            f"{file}: '{name}' has {math.prod(entry.shape)} bytes; {shape} in 4 bits needs half"
        )
    blocks = -(-count // block)
    parts = {
        "weight": name,
        "largest": found.checked(name, f"{name}.absmax", ("F32", "U8"), (blocks,)),
        "table": found.checked(name, f"{name}.quant_map", FLOATS, (16,)),
    }
    form = Table4(kind, block)
    if found.entries[parts["largest"]][1].dtype == "U8":
        outer = state.get("nested_blocksize")
        offset = state.get("nested_offset")
        if type(outer) is not int or not 0 < outer <= _LARGEST_BLOCK or not isinstance(offset, int | float):
            raise CheckpointError(f"{file}: '{states[0]}' lacks nested_blocksize or nested_offset")
        form = Table4(kind, block, outer, float(offset))
        parts["nested_largest"] = found.checked(
            name, f"{name}.nested_absmax", ("F32",), (-(-blocks // outer),)
        )
        parts["nested_table"] = found.checked(name, f"{name}.nested_quant_map", FLOATS, (256,))
    found.add(name, shape, form, **parts, state=states[0])


def _state(found: Finder, name: str, state: str) -> dict[str, Any]:
    """What the small text next to a tensor in 4 bits says."""
    found.checked(name, state, ("U8",))
    file, entry = found.entries[state]
    if math.prod(entry.shape) > _LIMITS.size:
        raise CheckpointError(f"{file}: '{state}' is too long for what it should say")
    try:
        data = parse_json_object(bytes(found.files.tensor(state, (file, entry)).flatten().tolist()), _LIMITS)
    except JsonError as error:
        raise CheckpointError(f"{file}: '{state}' {error}") from None
    shape, block = data.get("shape"), data.get("blocksize")
    sizes = (
        isinstance(shape, list) and len(shape) == 2 and all(type(n) is int and 0 < n < 2**31 for n in shape)
    )
    if not sizes or type(block) is not int or not 0 < block <= _LARGEST_BLOCK:
        raise CheckpointError(f"{file}: '{state}' has no usable shape and blocksize")
    if data.get("quant_type") != state.rsplit("__", 1)[1]:
        raise CheckpointError(f"{file}: '{state}' says quant_type {data.get('quant_type')!r}")
    return data


def _check_order(found: Finder, stored: str) -> None:
    """Only rows in their order are read: the other ones are for old processors."""
    if stored in found.entries:
        file, entry = found.entries[stored]
        if math.prod(entry.shape) != 1 or int(found.files.tensor(stored, (file, entry)).flatten()[0]) != 0:
            raise CheckpointError(
                f"{file}: '{stored}' says that rows are reordered; save the weights in bfloat16"
            )
