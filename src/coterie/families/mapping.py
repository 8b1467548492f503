"""One declared mapping per family between a checkpoint's tensors and ours, for loading and for saving.

A `Slot` says which view of one of our parameters is which tensor on disk, or which part of one. Loading
copies from disk into the view, saving copies out of it, so import and export cannot drift apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

View = Callable[[Tensor], Tensor]


def whole(parameter: Tensor) -> Tensor:
    """The tensor as it is."""
    return parameter


@dataclass(frozen=True)
class Within:
    """A part of a tensor on disk that several parameters share: `view` of a tensor of `shape`.

    The parts of all slots that name the same tensor must cover it without overlap.
    """

    shape: tuple[int, ...]
    view: View


@dataclass(frozen=True)
class Held:
    """What one process holds of a parameter of `shape`: one slice per leading dimension, the others whole.

    `Held((8, 6, 4), (slice(2, 4),))` is experts 2 and 3 of 8.
    """

    shape: tuple[int, ...]
    block: tuple[slice, ...]

    def bounds(self) -> list[tuple[int, int]]:
        """(first, end) of every dimension."""
        rest = [slice(None)] * (len(self.shape) - len(self.block))
        ranges = [part.indices(size) for part, size in zip([*self.block, *rest], self.shape, strict=True)]
        return [(first, end) for first, end, _ in ranges]


@dataclass(frozen=True)
class Slot:
    """Disk tensor `disk` is `view(parameter)`, where `parameter` is our tensor named `name`.

    The view must share memory with the parameter and have the shape of the tensor on disk. `copy`: the file
    repeats what another slot defines; it is written, and compared when read. `within`: the view is this part
    of the tensor on disk; other slots of the same `disk` are the other parts (a fused q, k and v).
    `float32`: a parameter that has this type in memory and on disk, whatever type the others have.
    """

    disk: str
    name: str
    view: View = whole
    copy: bool = False
    within: Within | None = None
    float32: bool = False

    def disk_shape(self, parameter: Tensor) -> tuple[int, ...]:
        """The shape of the whole tensor on disk; `parameter` may be on the meta device."""
        return self.within.shape if self.within is not None else tuple(self.view(parameter).shape)

    def part(self, stored: Tensor) -> Tensor:
        """The part of the tensor on disk that is this slot's: a view of `stored`."""
        return stored if self.within is None else self.within.view(stored)

    def experts(self, shape: tuple[int, ...]) -> range:
        """The experts that the slot holds numbers of; `shape`: the parameter's, experts first."""
        size, view = math.prod(shape[1:]), self.view(torch.empty(shape, device="meta"))
        first, last = extent(view)
        return range(first // size, last // size + 1)

    def block(self, local: Tensor, held: Held) -> tuple[Tensor, tuple[slice, ...]] | None:
        """Where this slot meets the block of the parameter that a process holds.

        `local`: the block itself. Returns a view of it, and the index of the same numbers in
        `part(tensor on disk)`; None where the two have nothing in common.
        Errors: `ValueError` for a view that does more than select a range and permute dimensions.
        """
        whole_view = self.view(torch.empty(held.shape, device="meta"))
        start, walked = _box(whole_view, held.shape)
        bounds = held.bounds()
        index: list[slice] = []
        inside: list[slice | int] = [at - first for at, (first, _) in zip(start, bounds, strict=True)]
        fixed = set(range(len(start))) - {dim for dim in walked if dim is not None}
        if any(not bounds[dim][0] <= start[dim] < bounds[dim][1] for dim in fixed):
            return None
        for size, dim in zip(whole_view.shape, walked, strict=True):
            if dim is None:  # a dimension of size 1, which the view added
                index.append(slice(0, 1))
                continue
            first, end = max(bounds[dim][0], start[dim]), min(bounds[dim][1], start[dim] + size)
            if first >= end:
                return None
            index.append(slice(first - start[dim], end - start[dim]))
            inside[dim] = slice(first - bounds[dim][0], end - bounds[dim][0])
        target = local[tuple(inside)]
        order = sorted(dim for dim in walked if dim is not None)
        target = target.permute([order.index(dim) for dim in walked if dim is not None])
        for position, dim in enumerate(walked):
            target = target.unsqueeze(position) if dim is None else target
        return target, tuple(index)


def extent(view: Tensor) -> tuple[int, int]:
    """The places of the first and of the last number of a view in its storage."""
    first = int(view.storage_offset())
    return first, first + sum((size - 1) * step for size, step in zip(view.shape, view.stride(), strict=True))


def _box(view: Tensor, shape: tuple[int, ...]) -> tuple[list[int], list[int | None]]:
    """Where `view` begins in a contiguous tensor of `shape`, and along which dimensions it runs."""
    strides = torch.empty(shape, device="meta").stride()
    offset, start = int(view.storage_offset()), []
    for stride in strides:
        start.append(offset // stride)
        offset %= stride
    walked: list[int | None] = []
    for size, stride in zip(view.shape, view.stride(), strict=True):
        fitting = [
            dim
            for dim, own in enumerate(strides)
            if own == stride and start[dim] + size <= shape[dim] and dim not in walked
        ]
        # A dimension of size 1 has an arbitrary stride: prefer one of the parameter's that has size 1 too.
        fitting.sort(key=lambda dim: shape[dim] != size)
        if not fitting and size != 1:
            raise ValueError(f"a view of shape {tuple(view.shape)} is not a block of a parameter {shape}")
        walked.append(fitting[0] if fitting else None)
    return start, walked


def rows_within(shape: tuple[int, ...], first: int, end: int) -> Within:
    """Rows `first` to `end` (exclusive) of a tensor on disk of `shape`."""
    return Within(shape, lambda stored: stored[first:end])


def expert_half(index: int, half: int) -> View:
    """Expert `index`'s gate (0) or up (1) matrix (F, D) inside `gate_up` (E, 2F, D)."""
    return lambda weight: weight[index].unflatten(0, (2, -1))[half]


def expert(index: int) -> View:
    """Expert `index`'s matrix inside a weight (E, out, in)."""
    return lambda weight: weight[index]


def as_row(vector: Tensor) -> Tensor:
    """(E,) as (1, E)."""
    return vector.unsqueeze(0)


def transposed(weight: Tensor) -> Tensor:
    """(E, out, in) as (E, in, out)."""
    return weight.transpose(1, 2)
