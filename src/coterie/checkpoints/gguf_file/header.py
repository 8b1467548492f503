"""The header of a GGUF file that nobody vouches for: its keys, and where its tensors are.

Every count, length and offset is taken against what is left of the file, so the time and memory of reading
are linear in the header. Layout: ggml's specification of the format, versions 2 and 3.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from coterie.checkpoints.gguf_file.types import REFUSED, TYPES, BlockType
from coterie.config import CheckpointError
from coterie.config.files import open_regular

# numpy's form of every scalar by its number in the file.
_SCALARS = {
    0: "u1", 1: "i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "?", 10: "<u8",
    11: "<i8", 12: "<f8",
}  # fmt: skip
_UINT32, _STRING, _ARRAY = 4, 8, 9
_HEADER = 1 << 28  # bytes before the tensors; a vocabulary of a million tokens takes some 30 MB
_LONGEST_NAME, _LONGEST_ARRAY, _MOST_DIMENSIONS = 1 << 16, 1 << 24, 8
_READ = 1 << 20


@dataclass(frozen=True)
class TensorPlace:
    """A tensor of a file: its type, its shape with the row last, and its bytes `[start, end)`."""

    type: BlockType
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True)
class GgufHeader:
    """What the header of one file says.

    `keys`: int, float, bool, str, or a list of one of them, by name. `tensors`: in the order of their bytes.
    """

    path: Path
    version: int
    alignment: int
    keys: dict[str, Any]
    tensors: dict[str, TensorPlace]


class _Damaged(Exception):
    """What is wrong with a file, as the end of a sentence about it."""


def read_header(path: Path) -> GgufHeader:
    """Keys of a file and places of its tensors. Errors: `CheckpointError` for a file that is not whole."""
    try:
        with open_regular(path) as file:
            size = file.seek(0, 2)
            file.seek(0)
            return _Walk(file, size).header(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None
    except (_Damaged, ValueError, LookupError, OverflowError, TypeError, struct.error) as error:
        reason = " ".join(str(error).split())[:160]
        raise CheckpointError(
            f"{path}: is not a whole GGUF file ({reason}); write or fetch it again"
        ) from None


class _Walk:
    """Reads the header of an open file of `size` bytes once, from its beginning."""

    def __init__(self, file: Any, size: int) -> None:
        self._file = file
        self._size = size
        self._at = 0  # the next byte of the file, and below its place in the piece that was read
        self._piece, self._inside = b"", 0

    def header(self, path: Path) -> GgufHeader:
        """Errors: `_Damaged`, an error of decoding, or `CheckpointError` for what is refused by name."""
        if self._bytes(4) != b"GGUF":
            raise _Damaged("it does not begin with GGUF")
        version = self._number("<I")
        if version not in (2, 3):
            if version in (2 << 24, 3 << 24):
                raise CheckpointError(
                    f"{path}: is a big-endian GGUF file (for s390x); turn it with gguf-convert-endian first"
                )
            raise _Damaged(f"version {version}; versions 2 and 3 are read")
        num_tensors, num_keys = self._number("<Q"), self._number("<Q")
        keys: dict[str, Any] = {}
        alignment = 32
        for _ in range(num_keys):  # ends with the file: each takes 13 bytes at least
            name, kind = self._name(keys), self._number("<I")
            keys[name] = self._value(name, kind)
            if name == "general.alignment":
                alignment = keys[name] if kind == _UINT32 else 0
        if not 8 <= alignment <= 1 << 20 or alignment & (alignment - 1):
            raise _Damaged("its alignment is not a power of two from 8 to 2^20")
        tensors: dict[str, TensorPlace] = {}
        for _ in range(num_tensors):  # ends with the file: each takes 24 bytes at least
            name = self._name(tensors)
            tensors[name] = self._tensor(path, name)
        start = -(-self._at // alignment) * alignment
        return GgufHeader(path, version, alignment, keys, self._places(tensors, start, alignment))

    def _bytes(self, count: int) -> bytes:
        if count > self._size - self._at:
            raise _Damaged(f"byte {self._at:,} announces {count:,} more, the file ends at {self._size:,}")
        if self._at + count > _HEADER:
            raise _Damaged(f"its header is longer than {_HEADER:,} bytes")
        if self._inside + count > len(self._piece):
            rest = self._piece[self._inside :]
            self._piece, self._inside = rest + self._file.read(max(_READ, count) - len(rest)), 0
            if count > len(self._piece):
                raise _Damaged("it ends early")
        found = self._piece[self._inside : self._inside + count]
        self._inside += count
        self._at += count
        return found

    def _number(self, form: str) -> int:
        return int(struct.unpack(form, self._bytes(struct.calcsize(form)))[0])

    def _name(self, seen: dict[str, Any]) -> str:
        length = self._number("<Q")
        if length > _LONGEST_NAME:
            raise _Damaged(f"byte {self._at:,} announces a name of {length:,} bytes")
        name = self._bytes(length).decode()
        if name in seen:
            raise _Damaged(f"'{name[:80]}' is there twice")
        return name

    def _value(self, name: str, kind: int) -> Any:
        if kind == _STRING:
            return self._strings(name, 1)[0]
        if kind != _ARRAY:
            return self._scalars(kind, 1)[0]
        kind, count = self._number("<I"), self._number("<Q")
        if count > min(_LONGEST_ARRAY, self._size - self._at):
            raise _Damaged(f"byte {self._at:,} announces {count:,} values of '{name[:80]}'")
        return self._strings(name, count) if kind == _STRING else self._scalars(kind, count)

    def _scalars(self, kind: int, count: int) -> list[Any]:
        if kind not in _SCALARS:
            what = "an array of arrays" if kind == _ARRAY else f"a value of the unknown type {kind}"
            raise _Damaged(f"byte {self._at:,} announces {what}")
        form = np.dtype(_SCALARS[kind])
        return list(np.frombuffer(self._bytes(count * form.itemsize), form).tolist())

    def _strings(self, name: str, count: int) -> list[str]:
        """Vocabularies are the bulk of a header, so this loop looks up little."""
        found, take, length = [], self._bytes, struct.Struct("<Q").unpack
        try:
            for _ in range(count):
                found.append(take(length(take(8))[0]).decode())
        except UnicodeDecodeError as error:
            raise _Damaged(f"a text of '{name[:80]}' is not UTF-8: {error.reason}") from None
        return found

    def _tensor(self, path: Path, name: str) -> TensorPlace:
        """A tensor's place from the beginning of the data; ggml gives shapes with the row first."""
        dimensions = self._number("<I")
        if dimensions > _MOST_DIMENSIONS:
            raise _Damaged(f"tensor '{name[:80]}' has {dimensions:,} dimensions")
        shape = tuple(self._number("<Q") for _ in range(dimensions))[::-1] or (1,)
        kind, offset = self._number("<I"), self._number("<Q")
        if kind in REFUSED:
            raise CheckpointError(f"{path}: tensor '{name[:80]}' has the type {kind}, {REFUSED[kind]}")
        if kind not in TYPES:
            raise _Damaged(f"tensor '{name[:80]}' has the unknown type {kind}")
        found = TYPES[kind]
        if shape[-1] % found.block:
            raise _Damaged(f"rows of tensor '{name[:80]}' are not whole blocks of {found.block}")
        return TensorPlace(found, shape, offset, offset + math.prod(shape) // found.block * found.nbytes)

    def _places(self, tensors: dict[str, TensorPlace], start: int, alignment: int) -> dict[str, TensorPlace]:
        """The places from the beginning of the file."""
        end, places = 0, {}
        for name, place in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)):
            if place.start % alignment or place.start < end:
                raise _Damaged(f"tensor '{name[:80]}' overlaps another or is not aligned")
            end = place.end
            if start + end > self._size:
                raise _Damaged(
                    f"tensor '{name[:80]}' ends at byte {start + end:,}, the file at {self._size:,}"
                )
            places[name] = TensorPlace(place.type, place.shape, start + place.start, start + end)
        return places
