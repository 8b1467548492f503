"""What loading needs from a reader of tensors, whatever the files behind it are."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from coterie.checkpoints.quantised.encoded import Grid
from coterie.families.mapping import extent


def within_expert(
    shape: tuple[int, ...], part: Callable[[Tensor], Tensor]
) -> tuple[int, Callable[[Tensor], Tensor]] | None:
    """The expert in which the view `part` of a tensor (E, *, *) lies, and the same view of its matrix.

    None where the view takes in several, or the tensor holds no experts.
    """
    if len(shape) != 3:
        return None
    view = part(torch.empty(shape, device="meta"))
    (first, last), size = extent(view), math.prod(shape[1:])
    if first // size != last // size:
        return None
    return first // size, lambda matrix: matrix.contiguous().as_strided(
        view.shape, view.stride(), first % size
    )


class TensorSource(Protocol):
    """Named tensors on disk, whatever the format. `StoredTensors` reads safetensors.

    Iteration gives the names in the order in which reading them is fastest.
    """

    def __iter__(self) -> Iterator[str]: ...

    def __contains__(self, name: str) -> bool: ...

    @property
    def quantised(self) -> bool:
        """Whether any tensor is stored in a narrower form than `read` returns."""
        ...

    @property
    def bytes_read(self) -> int:
        """Bytes read from files so far."""
        ...

    def file(self, name: str) -> Path:
        """The file that holds the tensor, for error messages."""
        ...

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of the tensor that `read` returns."""
        ...

    def dtype(self, name: str) -> torch.dtype:
        """The type of the tensor that `read` returns."""
        ...

    def read(self, name: str) -> Tensor:
        """The whole tensor, in new memory on the CPU. Errors: `CheckpointError` for a damaged file."""
        ...

    def read_part(self, name: str, index: int) -> Tensor:
        """`read(name)[index]`, without unpacking the rest where the format allows it."""
        ...

    def read_into(self, name: str, target: Tensor, part: Callable[[Tensor], Tensor] | None = None) -> None:
        """Copy the tensor into `target`, which has its shape but may have another type, device or stride.

        `part`: copy only this view of the tensor; a contiguous one is read without the rest.
        """
        ...

    def expect(self, name: str, part: Callable[[Tensor], Tensor]) -> None:
        """Say that the view `part` of a tensor will be read soon; a source may begin to read, or not."""
        ...

    def grid(self, name: str) -> Grid | None:
        """The grid that holds the numbers of a tensor (O, I) exactly; None where there is none."""
        ...

    def codes(self, name: str) -> tuple[Tensor, Tensor]:
        """Of a tensor that has a grid: codes (O, I) int8 and scales (O, B); a number is code times scale."""
        ...

    def release(self) -> None:
        """Close files and free buffers; the source can still be read afterwards."""
        ...
