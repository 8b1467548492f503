"""MXFP4 as gpt-oss stores its experts (docs/design/families.md, number formats).

E experts, O outputs, I inputs.
"""

from __future__ import annotations

from coterie.checkpoints.quantised.finder import Finder
from coterie.checkpoints.quantised.fp4 import Fp4
from coterie.config import CheckpointError

BLOCK = 32


def collect(found: Finder) -> None:
    """`X_blocks` (E, O, I / 32, 16) and `X_scales` (E, O, I / 32), bytes, encode `X` (E, I, O).

    Errors: `CheckpointError` for blocks without scales, and for other shapes.
    """
    for blocks, name in list(found.ending("_blocks")):
        found.checked(name, blocks, ("U8",))
        file, entry = found.entries[blocks]
        if len(entry.shape) != 4 or entry.shape[3] * 2 != BLOCK or 0 in entry.shape:
            raise CheckpointError(
                f"{file}: '{blocks}' has shape {entry.shape}; blocks of {BLOCK} numbers have (E, O, B, 16)"
            )
        experts, rows, count, _ = entry.shape
        scales = found.checked(name, f"{name}_scales", ("U8",), (experts, rows, count))
        shape = (experts, count * BLOCK, rows)
        found.add(name, shape, Fp4("mxfp4", transposed=True), weight=blocks, scale=scales)
