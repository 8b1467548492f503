"""Which tensors of a family's layout are leaves of the weight tree, and where in it they belong."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from coterie.families import Slot, family
from coterie.identity.tree import MODEL, TreePart
from coterie.nn.transformer import Transformer

_PLACE = re.compile(r"(blocks|mtp)\.(\d+)\.")


@dataclass(frozen=True)
class LeafPiece:
    """What one leaf is made of: a tensor on disk, or one expert of a tensor that holds all of them.

    `disk`: the name of the tensor. `slots`: what of our parameters it is. `shape`: of the whole tensor.
    `expert`: its index in the tensor; None for the whole. `part`: where it belongs in the tree.
    """

    disk: str
    slots: tuple[Slot, ...]
    shape: tuple[int, ...]
    expert: int | None
    part: TreePart

    @property
    def name(self) -> str:
        """The name of the leaf."""
        return self.disk if self.expert is None else f"{self.disk}[{self.expert}]"

    @property
    def own_shape(self) -> tuple[int, ...]:
        """The shape of the piece."""
        return self.shape if self.expert is None else self.shape[1:]


def pieces(model: Transformer, shape_of: Callable[[str], tuple[int, ...]]) -> Iterator[LeafPiece]:
    """The leaves of the family's layout; a copy of another tensor has none.

    `shape_of`: the shape of one of our parameters.
    """
    found: dict[str, list[Slot]] = {}
    for slot in family(model.config.family).slots(model.config):
        if not slot.copy:
            found.setdefault(slot.disk, []).append(slot)
    for disk, slots in found.items():
        first = slots[0]
        shape = shape_of(first.name)
        whole = first.disk_shape(torch.empty(shape, device="meta"))
        layer = layer_of(first.name)
        experts = first.experts(shape) if ".experts." in first.name else range(0)
        if len(experts) == 1:
            yield LeafPiece(disk, tuple(slots), whole, None, TreePart(layer, experts[0]))
        elif len(experts) == whole[0] and len(slots) == 1 and first.within is None:
            for expert in experts:
                yield LeafPiece(disk, (first,), whole, expert, TreePart(layer, expert))
        else:
            yield LeafPiece(disk, tuple(slots), whole, None, TreePart(layer))


def layer_of(name: str) -> str:
    """The layer of one of our parameters."""
    found = _PLACE.match(name)
    if found is None:
        return MODEL
    return found[2] if found[1] == "blocks" else f"mtp {found[2]}"
