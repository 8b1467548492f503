"""Whole numbers of 1 to 8 bits with a scale, and perhaps a zero, for each group of a row.

O rows, I columns of a matrix, B groups of a row.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from coterie.checkpoints.quantised.encoded import Decoding, Parts, Shape

Part = Callable[[str], Tensor | None]


@dataclass(frozen=True)
class Affine(Decoding):
    """A number is `scale * (code - zero)`, scale and zero those of its group.

    `bits` of a code, from 0; `group` numbers of a row share a scale. A method's own form says how its parts
    hold the four tensors below.
    """

    method: str
    bits: int
    group: int

    @property
    def label(self) -> str:
        """The method, the bits and the groups."""
        return f"{self.method}, {self.bits} bits in groups of {self.group:,}"

    @abstractmethod
    def unsigned(self, parts: Parts, shape: Shape) -> Tensor:
        """(O, I) uint8: the codes."""

    @abstractmethod
    def zeros(self, part: Part, shape: Shape) -> Tensor | None:
        """(O, B): the codes that mean 0; None where that is the middle one everywhere."""

    @abstractmethod
    def scales(self, parts: Parts, shape: Shape) -> Tensor:
        """(O, B)."""

    def groups(self, part: Part, shape: Shape) -> Tensor | None:
        """(I,): the group of each column; None where they follow each other."""
        return None

    @property
    def middle(self) -> int:
        """The code that means 0 in a symmetric form."""
        return 1 << (self.bits - 1)

    def decode(self, parts: Parts, shape: Shape) -> Tensor:
        """(O, I) float32."""
        codes, scales = self.unsigned(parts, shape).float(), self.scales(parts, shape).float()
        zeros, groups = self.zeros(parts.get, shape), self.groups(parts.get, shape)
        zeros = torch.full_like(scales, self.middle) if zeros is None else zeros.float()
        if groups is not None:
            return codes.sub_(zeros[:, groups]).mul_(scales[:, groups])
        missing = scales.shape[1] * self.group - shape[1]
        blocks = torch.nn.functional.pad(codes, (0, missing)).unflatten(1, (-1, self.group))
        return blocks.sub_(zeros[..., None]).mul_(scales[..., None]).flatten(1)[:, : shape[1]]

    def grid(self, part: Part, shape: Shape) -> tuple[int, int] | None:
        """Where all zeros are in the middle and groups follow each other: the same codes and scales."""
        zeros = self.zeros(part, shape)
        if self.groups(part, shape) is not None or (self.group % 2 and self.group < shape[1]):
            return None
        if zeros is not None and not bool((zeros == self.middle).all()):
            return None
        return (4 if self.bits <= 4 else 8), min(self.group, shape[1])

    def codes(self, parts: Parts, shape: Shape) -> tuple[Tensor, Tensor]:
        """Codes around 0, and the scales."""
        signed = self.unsigned(parts, shape).to(torch.int16).sub_(self.middle).to(torch.int8)
        return signed, self.scales(parts, shape)


def ordered(groups: Tensor | None, group: int) -> Tensor | None:
    """Each column's group; None where the columns are in the order of their groups."""
    if groups is None or torch.equal(groups.long(), torch.arange(len(groups)) // group):
        return None
    return groups.long()
