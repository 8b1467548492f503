"""One tensor of a model that several tensors of its files encode.

E experts, O rows, I columns of a matrix, B blocks of a row.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from coterie.checkpoints.tensor_reader import FileBytes, Place, Plain, TensorEntry

Parts = Mapping[str, Tensor]  # what was read, by its role
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Grid:
    """Codes of `bits` bits (8 or 4) times one scale per `block` numbers of a row: our own kept form."""

    bits: int
    block: int
    scales: torch.dtype


@dataclass
class FormFacts:
    """How much of a model is stored in one form: tensors, numbers, and bytes with all scales.

    `form`: kind and blocks, as `Decoding.label` says them.
    """

    form: str
    tensors: int = 0
    numbers: int = 0
    bytes: int = 0

    @property
    def bits(self) -> float:
        """Effective bits per number."""
        return 8 * self.bytes / self.numbers

    def __str__(self) -> str:
        """In words, with the number of tensors and the effective bits."""
        return f"{self.form}: {self.tensors:,} tensors, {self.bits:.2f} bits a number"


class Decoding(ABC):
    """How the parts of one matrix encode it."""

    @property
    @abstractmethod
    def label(self) -> str:
        """Kind and size of the blocks, such as `int4 in groups of 128`."""

    @abstractmethod
    def decode(self, parts: Parts, shape: Shape) -> Tensor:
        """The matrix of `shape`, float32."""

    def grid(self, part: Callable[[str], Tensor | None], shape: Shape) -> tuple[int, int] | None:
        """Bits and block of the grid that holds the same numbers exactly; None where there is none.

        `part` reads a part, None where the tensor lacks it; only small ones are asked for.
        """
        return None

    def codes(self, parts: Parts, shape: Shape) -> tuple[Tensor, Tensor]:
        """Of a form with a grid: codes (O, I) int8 and scales (O, B); a number is code times scale."""
        raise NotImplementedError(f"{self.label} has no grid")


@dataclass(frozen=True)
class EncodedTensor:
    """A tensor of shape `whole`, or its rows `rows`, from what is at `places`, the numbers first.

    `name`: what the file would call it if it were plain. A tensor of all experts has the experts as first
    dimension of every part. `shape`: of the tensor that `read` returns.
    """

    name: str
    places: Mapping[str, Place]
    whole: Shape
    form: Decoding
    rows: tuple[int, int] | None = None
    dtype: torch.dtype = torch.float32

    @property
    def shape(self) -> Shape:
        """The shape of the tensor that `read` returns."""
        return self.whole if self.rows is None else (self.rows[1] - self.rows[0], self.whole[1])

    @property
    def file(self) -> Path:
        """The file that holds the numbers."""
        return next(iter(self.places.values()))[0]

    @property
    def nbytes(self) -> int:
        """Bytes on disk of all parts; of rows, their share."""
        whole = sum(entry.end - entry.start for _, entry in self.places.values())
        return whole * math.prod(self.shape) // max(1, math.prod(self.whole))

    def read(self, files: FileBytes) -> Tensor:
        """The tensor as float32, in new memory."""
        if len(self.whole) == 3:
            return torch.stack([self.expert(index).read(files) for index in range(self.whole[0])])
        return self._rows(self.form.decode(self._parts(files), self.whole))

    def expert(self, index: int) -> EncodedTensor:
        """One expert's matrix."""
        places = {role: (file, _slice(entry, index)) for role, (file, entry) in self.places.items()}
        return replace(self, places=places, whole=self.whole[1:])

    def part(self, shape: Shape, index: int) -> EncodedTensor:
        """The `index`-th of the matrices of `shape` that fill a tensor of all experts."""
        expert, piece = divmod(index, self.whole[1] // shape[0])
        return replace(self.expert(expert), rows=(piece * shape[0], (piece + 1) * shape[0]))

    def grid(self, files: FileBytes) -> Grid | None:
        """The grid on which the tensor can be kept as it is; None where it has to be rounded."""
        if len(self.whole) == 3:
            return None

        def part(role: str) -> Tensor | None:
            return files.tensor(self.name, self.places[role]) if role in self.places else None

        found = self.form.grid(part, self.whole)
        if found is None:
            return None
        scales = Plain(self.name, *self.places["scale"]).dtype
        return Grid(*found, scales) if scales in (torch.float32, torch.bfloat16, torch.float16) else None

    def codes(self, files: FileBytes) -> tuple[Tensor, Tensor]:
        """Codes (O, I) int8 and scales (O, B) of a tensor that has a grid."""
        codes, scales = self.form.codes(self._parts(files), self.whole)
        return self._rows(codes), self._rows(scales)

    def _parts(self, files: FileBytes) -> Parts:
        return {role: files.tensor(self.name, place) for role, place in self.places.items()}

    def _rows(self, matrix: Tensor) -> Tensor:
        return matrix if self.rows is None else matrix[self.rows[0] : self.rows[1]]


def _slice(entry: TensorEntry, index: int) -> TensorEntry:
    return entry.part(entry.shape[1:], index)


def unpacked(words: Tensor, bits: int, count: int) -> Tensor:
    """(..., count) uint8: `count` numbers of `bits` bits in int32 words (..., W), lowest bits first.

    A number may begin in one word and end in the next.
    """
    octets = words.contiguous().view(torch.uint8)
    if bits in (2, 4, 8):
        shifts = torch.arange(0, 8, bits, dtype=torch.uint8)
        return ((octets[..., None] >> shifts) & (2**bits - 1)).flatten(-2)[..., :count]
    first = torch.arange(count) * bits
    padded = torch.nn.functional.pad(octets, (0, 1)).to(torch.int32)
    pairs = padded[..., first // 8] | (padded[..., first // 8 + 1] << 8)
    return ((pairs >> (first % 8).to(torch.int32)) & (2**bits - 1)).to(torch.uint8)


def packed(codes: Tensor, bits: int) -> Tensor:
    """Int32 words (..., W) of codes (..., I), int8 around 0, of 4 or 8 bits.

    `unpacked` gives the codes plus 2^(bits - 1).
    """
    octets = (codes.to(torch.int16) + (1 << (bits - 1))).to(torch.uint8)
    octets = torch.nn.functional.pad(octets, (0, -codes.shape[-1] % (32 // bits)))
    if bits == 4:
        octets = octets[..., 0::2] | (octets[..., 1::2] << 4)
    return octets.contiguous().view(torch.int32)


def packed_words(count: int, bits: int) -> int:
    """How many int32 words hold `count` numbers of `bits` bits."""
    return -(-count * bits // 32)


def by_blocks(scales: Tensor, rows: int, columns: int, shape: Shape) -> Tensor:
    """Scales (ceil(O / rows), ceil(I / columns)) as one per number, float32."""
    by_row = scales.float().repeat_interleave(rows, 0)[: shape[0]]
    return by_row.repeat_interleave(columns, 1)[:, : shape[1]]
