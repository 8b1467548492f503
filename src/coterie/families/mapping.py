"""One declared mapping per family between a checkpoint's tensors and ours; read forwards to load, backwards
to save.

A `Slot` says that one tensor on disk is one view of one of our parameters. Loading copies the disk tensor
into the view, saving reads the view, so import and export cannot drift apart.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

View = Callable[[Tensor], Tensor]


def whole(parameter: Tensor) -> Tensor:
    """The parameter as it is."""
    return parameter


@dataclass(frozen=True)
class Slot:
    """Disk tensor `disk` is `view(parameter)` where `parameter` is our tensor named `name`.

    The view must have the shape of the tensor on disk and share memory with the parameter. `copy`: the file
    repeats what another slot defines; it is written, and checked when read.
    """

    disk: str
    name: str
    view: View = whole
    copy: bool = False


def expert_half(index: int, half: int) -> View:
    """Expert `index`'s gate (0) or up (1) matrix (F, D) inside `gate_up` (E, 2F, D)."""
    return lambda weight: weight[index].unflatten(0, (2, -1))[half]


def expert(index: int) -> View:
    """Expert `index`'s matrix inside a weight (E, out, in)."""
    return lambda weight: weight[index]


def transposed(weight: Tensor) -> Tensor:
    """(E, out, in) as (E, in, out)."""
    return weight.transpose(1, 2)
