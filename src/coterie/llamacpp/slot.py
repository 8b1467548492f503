"""A `GgufSlot` says which numbers of a tensor of a GGUF file are which numbers of one of our parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from coterie.config import CheckpointError
from coterie.families.mapping import View, whole

Shape = tuple[int, ...]
# Ends of the names of small tensors that llama.cpp takes in float32 only.
EXACT = ("_norm.weight", "ssm_conv1d.weight", "shortconv.conv.weight", "ssm_a", "ssm_d")


class Readable(Protocol):
    """What reads the tensors of a file: a `TensorSource`."""

    def read(self, name: str) -> Tensor:
        """The whole tensor, in new memory."""
        ...

    def read_into(self, name: str, target: Tensor, part: View | None = None) -> None:
        """Copy the tensor, or the view `part` of it, into `target`."""
        ...


@dataclass(frozen=True)
class StoredAs:
    """What the file does to every number of a parameter (`written`), and the way back (`read`).

    Both work in float32. `note`: what `written` is, in words. `slack`: how far other programs' `written` may
    be from ours, as a part of the number.
    """

    note: str
    written: Callable[[Tensor], Tensor]
    read: Callable[[Tensor], Tensor]
    slack: float = 0.0


PLUS_ONE = StoredAs("plus 1", lambda numbers: numbers.float() + 1, lambda stored: stored - 1)


@dataclass(frozen=True)
class GgufSlot:
    """Tensor `stored` of the file, of `shape`, holds the numbers of our parameter `name`, or some of them.

    Several slots with one `stored` share the tensor: they cover it without overlap. `pieces`: pairs of views
    of the file's tensor and of the parameter with the same numbers. `rows`: of a tensor of experts, the rows
    of each expert that it holds; the pieces then fit any number of experts. `change`: what the file does to
    every number. `note`: what else is unlike the parameter, in words.
    """

    stored: str
    shape: Shape
    name: str
    pieces: tuple[tuple[View, View], ...] = ((whole, whole),)
    rows: slice | None = None
    change: StoredAs | None = None
    note: str = ""

    @property
    def words(self) -> str:
        """What is unlike the parameter."""
        notes = (self.note, self.change.note if self.change else "")
        return ", ".join(one for one in notes if one)

    def fits(self, shape: Shape) -> bool:
        """Whether a tensor of this shape can be `stored`; llama.cpp leaves out first dimensions of one."""
        return without_ones(shape) == without_ones(self.shape)

    def of_rows(self, parameter: Tensor) -> bool:
        """Whether the pieces move whole rows, so that they move rows of codes too."""
        if self.change is not None:
            return False
        stored = torch.empty(self.shape, device="meta")
        views = [view for theirs, ours in self.pieces for view in (theirs(stored), ours(parameter))]
        return all(view.shape[-1] == self.shape[-1] and view.stride(-1) == 1 for view in views)

    def pack(self, parameter: Tensor) -> Tensor:
        """The file's tensor from the parameter (of experts: as many as are given).

        Where several slots share the tensor, the numbers of the others are not set yet.
        """
        if self.pieces == ((whole, whole),):
            return self._changed(parameter)
        shape = self.shape if self.rows is None else (parameter.shape[0], *self.shape[1:])
        dtype = parameter.dtype if self.change is None else torch.float32
        stored = torch.empty(shape, dtype=dtype)
        self.add_to(stored, parameter)
        return stored

    def add_to(self, stored: Tensor, parameter: Tensor) -> None:
        """Copy the parameter's numbers to their places in the file's tensor."""
        numbers = self._changed(parameter)
        for theirs, ours in self.pieces:
            theirs(stored).copy_(ours(numbers))

    def unpack(self, stored: Tensor, parameter: Tensor) -> None:
        """Copy the file's tensor into the parameter (of experts: as many as are given)."""
        for theirs, ours in self.pieces:
            numbers = theirs(stored)
            ours(parameter).copy_(numbers if self.change is None else self._read(self.change, numbers))

    def read_into(self, source: Readable, parameter: Tensor) -> None:
        """Fill the parameter from the file, without the tensor in memory twice where that is possible."""
        if self.change is not None:
            self.unpack(source.read(self.stored), parameter)
            return
        for theirs, ours in self.pieces:
            source.read_into(self.stored, ours(parameter), theirs)

    def _read(self, change: StoredAs, stored: Tensor) -> Tensor:
        numbers = change.read(stored)
        if not numbers.isfinite().all():
            raise CheckpointError(
                f"'{self.stored}' holds a number that is not {change.note} of another; "
                "the file is damaged, or was not written for llama.cpp"
            )
        return numbers

    def _changed(self, parameter: Tensor) -> Tensor:
        return parameter if self.change is None else self.change.written(parameter)


def without_ones(shape: Shape) -> Shape:
    """A shape without its first dimensions of one."""
    first = next((index for index, size in enumerate(shape) if size != 1), len(shape))
    return shape[first:]
