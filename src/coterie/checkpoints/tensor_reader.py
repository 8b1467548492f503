"""Read safetensors files: headers are checked before anything else is read, then one tensor at a time.

A header is not trusted: its length, every offset, shape and type must agree with each other and with the
file's size.
"""

from __future__ import annotations

import io
import math
import os
import struct
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from coterie.config import CheckpointError
from coterie.config.json_text import JsonError, JsonLimits, parse_json_object

# Bits per number of every type safetensors knows.
_BITS = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0"), 8),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 16),
    **dict.fromkeys(("I32", "U32", "F32"), 32),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 64),
    **{"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6},
}
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "U16": torch.uint16,
    "U32": torch.uint32,
    "U64": torch.uint64,
    "C64": torch.complex64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.float8_e8m0fnu,
}
TYPE_NAMES = {dtype: name for name, dtype in _DTYPES.items()}  # what safetensors calls a type
_LONGEST_HEADER = 100_000_000
_HEADER = JsonLimits(size=_LONGEST_HEADER, depth=4, digits=20)
_MOST_DIMENSIONS = 16  # the product of very many would take quadratic time
_READ = 1 << 22
_PICKLE_STARTS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


@dataclass(frozen=True)
class TensorEntry:
    """One tensor of a file: type as safetensors names it, shape, and its bytes `[start, end)` in the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    def part(self, shape: tuple[int, ...], index: int) -> TensorEntry:
        """The `index`-th of the pieces of `shape` that fill the tensor, each one range of its bytes."""
        size = math.prod(shape) * _BITS[self.dtype] // 8
        return TensorEntry(self.dtype, shape, self.start + index * size, self.start + (index + 1) * size)


Place = tuple[Path, TensorEntry]  # the file that holds a tensor, and where it is in it
Entries = dict[str, Place]  # by the name in the file


def read_header(path: Path) -> dict[str, TensorEntry]:
    """The tensors of a safetensors file, in the order of their bytes. Reads only the header.

    Errors: `CheckpointError`, one line, for a pickle under another name, and for a header that is too long,
    is not JSON, names a tensor twice, gives an unknown type or a shape that does not fit its bytes, or whose
    tensors overlap, leave holes or do not end where the file ends.
    """
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            start, first = file.read(8), file.read(1)
            # The length of a header of 640 bytes begins like a pickle too, but a brace follows it.
            if first != b"{" and any(start.startswith(magic) for magic in _PICKLE_STARTS):
                raise CheckpointError(
                    f"{path}: is a pickle under another name; it can run code and is refused"
                )
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else -1
            if not 2 <= length <= min(_LONGEST_HEADER, size - 8):
                raise _damaged(path, f"its header claims {length:,} bytes in a file of {size:,}")
            text = first + file.read(length - 1)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        data = parse_json_object(text, _HEADER)
    except JsonError as error:
        raise _damaged(path, f"its header {error}") from None
    data.pop("__metadata__", None)
    entries = {name: _entry(path, name, value, 8 + length) for name, value in data.items()}
    entries = dict(sorted(entries.items(), key=lambda item: (item[1].start, item[1].end)))
    at = 8 + length
    for name, entry in entries.items():
        if entry.start != at:
            what = "overlaps the one before it" if entry.start < at else "leaves a hole before it"
            raise _damaged(path, f"tensor '{name}' {what}")
        at = entry.end
    if at != size:
        raise _damaged(path, f"its tensors end at byte {at:,}, the file at {size:,}")
    return entries


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of one small file, as they are stored. Errors: `CheckpointError` for a damaged one."""
    read_header(path)  # stricter than safetensors, and with the file's name in its errors
    try:
        return load_file(path)
    except (OSError, SafetensorError, RuntimeError, KeyError) as error:
        raise CheckpointError(f"{path}: cannot be read ({' '.join(str(error).split())[:160]})") from None


def _entry(path: Path, name: str, value: Any, offset: int) -> TensorEntry:
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise _damaged(path, f"tensor '{name}' lacks dtype, shape or data_offsets")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise _damaged(path, f"tensor '{name}' has the unknown type {dtype!r}")
    for field, numbers in (("shape", shape), ("data_offsets", offsets)):
        whole = isinstance(numbers, list) and all(type(n) is int and 0 <= n < 2**63 for n in numbers)
        if not whole or (len(numbers) != 2 if field == "data_offsets" else len(numbers) > _MOST_DIMENSIONS):
            raise _damaged(path, f"tensor '{name}' has an unusable {field}")
    nbytes = offsets[1] - offsets[0]
    if math.prod(shape) * _BITS[dtype] != 8 * nbytes:
        raise _damaged(
            path, f"tensor '{name}' of shape {shape} and type {dtype} does not fill its {nbytes:,} bytes"
        )
    return TensorEntry(dtype, tuple(shape), offset + offsets[0], offset + offsets[1])


def _damaged(path: Path, why: str) -> CheckpointError:
    why = why if len(why) <= 300 else f"{why[:280]}..."
    return CheckpointError(f"{path}: is not a whole safetensors file ({why}); fetch it again")


@dataclass(frozen=True)
class Plain:
    """A tensor that is stored as it is.

    `name`: what the file calls it, or the tensor that it is a part of.
    """

    name: str
    file: Path
    entry: TensorEntry

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        return self.entry.shape

    @property
    def dtype(self) -> torch.dtype:
        """Its type. Errors: `CheckpointError` for one that torch does not have."""
        if self.entry.dtype not in _DTYPES:
            raise CheckpointError(
                f"{self.file}: '{self.name}' is stored as {self.entry.dtype}, which cannot be read here"
            )
        return _DTYPES[self.entry.dtype]

    def part(self, shape: tuple[int, ...], index: int) -> Plain:
        """The `index`-th of the pieces of `shape` that fill the tensor."""
        return replace(self, entry=self.entry.part(shape, index))


class FileBytes:
    """Reads tensors from their places; the last file stays open, and one buffer is used again.

    `bytes_read`: of all tensors so far.
    """

    def __init__(self) -> None:
        self._open: tuple[Path, io.FileIO] | None = None
        self._scratch = torch.empty(0, dtype=torch.uint8)
        self.bytes_read = 0

    def tensor(self, name: str, place: Place) -> Tensor:
        """The tensor as it is stored, in new memory. `name`: for messages."""
        stored, entry = Plain(name, *place), place[1]
        tensor = torch.empty(entry.end - entry.start, dtype=torch.uint8)
        self.fill(name, place, tensor)
        return tensor.view(stored.dtype).view(entry.shape)

    def buffer(self, size: int) -> Tensor:
        """`size` bytes that the next call may overwrite."""
        if self._scratch.numel() < size:
            self._scratch = torch.empty(size, dtype=torch.uint8)
        return self._scratch[:size]

    def fill(self, name: str, place: Place, target: Tensor, start: int = 0) -> None:
        """Fill a contiguous tensor in main memory from a stored one's bytes, beginning at byte `start`."""
        self.fill_from(place[0], place[1].start + start, target, name)

    def fill_from(self, file: Path, start: int, target: Tensor, name: str) -> None:
        """Fill a contiguous tensor in main memory from a file's bytes, beginning at byte `start` of it.

        Reads straight into the memory: a mapped file faults in page by page, which is many times slower.
        `name`: for messages. Errors: `CheckpointError` for a file that cannot be read or is too short.
        """
        array: Any = target.detach().reshape(-1).view(torch.uint8).numpy()
        memory = memoryview(array)
        try:
            handle = self._handle(file)
            handle.seek(start)
            at = 0
            while at < len(memory):
                count = handle.readinto(memory[at : at + _READ])
                if not count:
                    raise CheckpointError(f"{file}: '{name}' ends early; fetch the file again")
                at += count
            self.bytes_read += at
        except OSError as error:
            raise CheckpointError(f"{file}: '{name}' cannot be read ({error.strerror})") from None

    def expect(self, file: Path, start: int, size: int) -> None:
        """Have the system read these bytes ahead, where it can."""
        if hasattr(os, "posix_fadvise"):
            with suppress(OSError):  # what cannot be read says so when it is
                os.posix_fadvise(self._handle(file).fileno(), start, size, os.POSIX_FADV_WILLNEED)

    def _handle(self, file: Path) -> io.FileIO:
        if self._open is None or self._open[0] != file:
            self._open = (file, open(file, "rb", buffering=0))  # noqa: SIM115 (closed with the last reference)
        return self._open[1]

    def release(self) -> None:
        """Close the open file and free the buffer; both come back when they are needed."""
        self._open, self._scratch = None, torch.empty(0, dtype=torch.uint8)
