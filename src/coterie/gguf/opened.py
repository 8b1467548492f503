"""Open a GGUF file that nobody vouches for: its structure is walked before the gguf package reads it.

The package trusts a file's counts: an array that claims 2^40 numbers loops as often, and what is cut short
ends in errors of many types. The walk takes every length against what is left of the file, so its time is
linear in the file's header.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

from coterie.config import CheckpointError
from coterie.config.files import open_regular

_SCALARS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # bytes by type number
_STRING, _ARRAY, _UINT32 = 8, 9, 4
_HEADER = 1 << 30  # bytes before the tensors; a vocabulary of a million tokens takes some 30 MB
_LONGEST_NAME, _MOST_DIMENSIONS = 1 << 16, 8


class _Damaged(Exception):
    """What is wrong with a file, as the end of a sentence about it."""


def open_gguf(path: Path) -> Any:
    """The `gguf.GGUFReader` of a file. Errors: `CheckpointError`, one line, for a file that is not whole."""
    import gguf

    try:
        with open_regular(path) as file:
            size = file.seek(0, 2)
            file.seek(0)
            _Walk(file, size).check()
        return gguf.GGUFReader(path)
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
        self._at = 0

    def check(self) -> None:
        """Errors: `_Damaged`, or an error of decoding."""
        if self._bytes(4) != b"GGUF":
            raise _Damaged("it does not begin with GGUF")
        version = self._number("<I")
        if version not in (2, 3):
            raise _Damaged(f"version {version}; versions 2 and 3 are read, little-endian")
        tensors, keys = self._number("<Q"), self._number("<Q")
        alignment, seen = 32, set[str]()
        for _ in range(keys):
            name = self._name(seen)
            kind = self._number("<I")
            if name == "general.alignment":
                alignment = self._number("<I") if kind == _UINT32 else 0
            else:
                self._skip_value(kind)
        if not 8 <= alignment <= 1 << 20 or alignment & (alignment - 1):
            raise _Damaged("its alignment is not a power of two from 8 to 2^20")
        seen.clear()
        places = []
        for _ in range(tensors):  # ends with the file: each takes 24 bytes at least
            places.append(self._tensor(self._name(seen)))
        self._check_places(places, -(-self._at // alignment) * alignment, alignment)

    def _bytes(self, count: int) -> bytes:
        if count > self._size - self._at:
            raise _Damaged(f"byte {self._at:,} announces {count:,} more, the file ends at {self._size:,}")
        self._at += count
        if self._at > _HEADER:
            raise _Damaged(f"its header is longer than {_HEADER:,} bytes")
        return bytes(self._file.read(count))

    def _number(self, form: str) -> int:
        return int(struct.unpack(form, self._bytes(struct.calcsize(form)))[0])

    def _name(self, seen: set[str]) -> str:
        length = self._number("<Q")
        if length > _LONGEST_NAME:
            raise _Damaged(f"byte {self._at:,} announces a name of {length:,} bytes")
        name = self._bytes(length).decode()
        if name in seen:
            raise _Damaged(f"'{name[:80]}' is there twice")
        seen.add(name)
        return name

    def _skip_value(self, kind: int) -> None:
        count = 1
        if kind == _ARRAY:
            kind, count = self._number("<I"), self._number("<Q")
        if kind == _STRING:
            for _ in range(count):  # ends with the file: each takes 8 bytes at least
                self._bytes(self._number("<Q"))
        elif kind in _SCALARS:
            self._bytes(count * _SCALARS[kind])
        else:
            what = "an array of arrays" if kind == _ARRAY else f"a value of the unknown type {kind}"
            raise _Damaged(f"byte {self._at:,} announces {what}")

    def _tensor(self, name: str) -> tuple[int, int, str]:
        """(offset, bytes, name) of a tensor."""
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

        dimensions = self._number("<I")
        if dimensions > _MOST_DIMENSIONS:
            raise _Damaged(f"tensor '{name[:80]}' has {dimensions:,} dimensions")
        count, first = 1, 0
        for index in range(dimensions):
            length = self._number("<Q")
            first = length if index == 0 else first
            count *= length
        kind, offset = self._number("<I"), self._number("<Q")
        known = {int(one): one for one in GGMLQuantizationType}
        if kind not in known:
            raise _Damaged(f"tensor '{name[:80]}' has the unknown type {kind}")
        block, nbytes = GGML_QUANT_SIZES[known[kind]]
        if first % block:
            raise _Damaged(f"rows of tensor '{name[:80]}' are not whole blocks of {block}")
        return offset, count // block * nbytes, name

    def _check_places(self, places: list[tuple[int, int, str]], start: int, alignment: int) -> None:
        end = 0
        for offset, nbytes, name in sorted(places):
            if offset % alignment or offset < end:
                raise _Damaged(f"tensor '{name[:80]}' overlaps another or is not aligned")
            end = offset + nbytes
            if start + end > self._size:
                raise _Damaged(
                    f"tensor '{name[:80]}' ends at byte {start + end:,}, the file at {self._size:,}"
                )
