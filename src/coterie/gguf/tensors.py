"""The tensors of the file to write: each yields its rows in chunks of float32.

Writing and checking so hold one expert, or one matrix in its stored type, and never a layer. What is where is
declared in `checkpoints.gguf_model.layout`. R rows, I numbers in a row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from coterie.checkpoints.gguf_model.layout import GgufSlot, gguf_slots, rope_factors
from coterie.checkpoints.gguf_model.targets import ROPE_FACTORS, Target
from coterie.gguf.blocks import CHUNK, Array
from coterie.gguf.parameters import ParameterSource


@dataclass(frozen=True)
class Mapped:
    """One tensor of the file: our parameter `origin`, changed as `note` says.

    `rows()`: the tensor as (R, I) fp32, in chunks of rows.
    """

    name: str
    shape: tuple[int, ...]
    origin: str
    rows: Callable[[], Iterator[Array]]
    note: str = ""


def map_tensors(source: ParameterSource, target: Target) -> list[Mapped]:
    """Every tensor of the file in its order.

    Errors: `CheckpointError` for a parameter that has no place in the architecture.
    """
    slots = gguf_slots(source.config, target, source.shapes)
    mapped = [
        Mapped(slot.stored, slot.shape, slot.name, partial(_rows, source, slot), slot.note) for slot in slots
    ]
    factors = rope_factors(source.config)
    if factors is not None:
        made = partial(_chunks, factors)
        mapped.append(Mapped(ROPE_FACTORS, tuple(factors.shape), "config", made, "llama3 scaling"))
    return mapped


def _rows(source: ParameterSource, slot: GgufSlot) -> Iterator[Array]:
    if slot.rows is None or len(slot.shape) == 2:
        yield from _chunks(slot.pack(source.read(slot.name)))
        return
    for expert in source.experts(slot.name, slot.rows):
        yield from _chunks(expert)


def _chunks(tensor: Tensor) -> Iterator[Array]:
    rows = tensor.reshape(1, -1) if tensor.dim() == 1 else tensor.flatten(0, -2)
    step = max(1, CHUNK // rows.shape[1])
    for start in range(0, rows.shape[0], step):
        yield rows[start : start + step].float().numpy()
