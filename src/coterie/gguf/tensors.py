"""The tensors of the file to write: each yields its rows in chunks of float32.

Writing and checking so hold one expert, or one matrix in its stored type, and never a layer. What is where is
declared in `llamacpp.layout`. R rows, I numbers in a row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from coterie.gguf.blocks import CHUNK, Array
from coterie.gguf.parameters import ParameterSource
from coterie.llamacpp.layout import gguf_slots, rope_factors
from coterie.llamacpp.slot import GgufSlot
from coterie.llamacpp.targets import Target


@dataclass(frozen=True)
class Mapped:
    """One tensor of the file: our parameters `origin`, changed as `note` says.

    `rows()`: the tensor as (R, I) fp32, in chunks of rows. `slack`: of `StoredAs`.
    """

    name: str
    shape: tuple[int, ...]
    origin: str
    rows: Callable[[], Iterator[Array]]
    note: str = ""
    slack: float = 0.0


def map_tensors(source: ParameterSource, target: Target) -> list[Mapped]:
    """Every tensor of the file in its order.

    Errors: `CheckpointError` for a parameter that has no place in the architecture.
    """
    shared: dict[str, list[GgufSlot]] = {}
    for slot in gguf_slots(source.config, target, source.shapes):
        shared.setdefault(slot.stored, []).append(slot)
    mapped = []
    for name, slots in shared.items():
        notes = ", ".join(dict.fromkeys(slot.words for slot in slots if slot.words))
        origin = " and ".join(slot.name for slot in slots)
        slack = max(slot.change.slack if slot.change is not None else 0.0 for slot in slots)
        rows = partial(_rows, source, slots)
        mapped.append(Mapped(name, slots[0].shape, origin, rows, notes, slack))
    for name, factors in rope_factors(source.config, target).items():
        made = partial(_chunks, factors)
        mapped.append(Mapped(name, tuple(factors.shape), "config", made, "scaling of positions"))
    return mapped


def _rows(source: ParameterSource, slots: Sequence[GgufSlot]) -> Iterator[Array]:
    first, *others = slots
    if first.rows is not None and len(first.shape) == 3:
        halves = (source.experts(slot.name, slot.rows or slice(None)) for slot in slots)
        for parts in zip(*halves, strict=True):
            yield from _chunks(torch.cat(parts))
        return
    parameters = [source.read(slot.name) for slot in slots]
    if len({parameter.dtype for parameter in parameters}) > 1:
        parameters = [parameter.float() for parameter in parameters]
    stored = first.pack(parameters[0])
    for slot, parameter in zip(others, parameters[1:], strict=True):
        slot.add_to(stored, parameter)
    yield from _chunks(stored)


def _chunks(tensor: Tensor) -> Iterator[Array]:
    rows = tensor.reshape(1, -1) if tensor.dim() == 1 else tensor.flatten(0, -2)
    step = max(1, CHUNK // rows.shape[1])
    for start in range(0, rows.shape[0], step):
        yield rows[start : start + step].float().numpy()
