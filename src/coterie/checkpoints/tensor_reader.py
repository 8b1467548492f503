"""Read safetensors files: headers are checked before anything else is read, then one tensor at a time.

A header is not trusted: its length, every offset, shape and type must agree with each other and with the
file's size. Quantised forms (DeepSeek's block-scaled FP8, gpt-oss's MXFP4) are read as the tensors they
encode.
"""

from __future__ import annotations

import io
import math
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from coterie.checkpoints.locate import check_index
from coterie.checkpoints.published_quants import fp8_blocks, mxfp4
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
_LONGEST_HEADER = 100_000_000
_HEADER = JsonLimits(size=_LONGEST_HEADER, depth=4, digits=20)
_MOST_DIMENSIONS = 16  # the product of very many would take quadratic time
_READ = 1 << 22
_PICKLE_STARTS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


@dataclass(frozen=True)
class TensorEntry:
    """One tensor of a file: type as safetensors names it, shape, and its bytes `[start, end)` in the file.

    `stored`: its name in the file, where the family calls it otherwise or it is a part of that tensor.
    """

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int
    stored: str | None = None

    def part(self, shape: tuple[int, ...], index: int) -> TensorEntry:
        """The `index`-th of the pieces of `shape` that fill the tensor, each one range of its bytes."""
        size = math.prod(shape) * _BITS[self.dtype] // 8
        return TensorEntry(self.dtype, shape, self.start + index * size, self.start + (index + 1) * size)


Entries = dict[str, tuple[Path, TensorEntry]]  # name -> the file that holds the tensor, and its place there


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


class StoredTensors:
    """All tensors of a checkpoint's safetensors files, under the names and shapes that a model uses.

    `quantisation`: `quantization_config` of config.json (None: plain). `renamed`: gives the tensors the names
    and shapes of the model's family (default: those of the files). Errors: `CheckpointError` for damaged
    files, a tensor in two files, a quantised tensor without its scale, and quantisation of another kind.
    """

    def __init__(
        self,
        files: list[Path],
        quantisation: Mapping[str, Any] | None = None,
        renamed: Callable[[Entries], Entries] | None = None,
    ) -> None:
        self._where: Entries = {}
        for file in files:
            for name, entry in read_header(file).items():
                if name in self._where:
                    raise CheckpointError(f"{file}: tensor '{name}' is in {self._where[name][0].name} too")
                self._where[name] = (file, entry)
        check_index(files[0].parent, {name: file for name, (file, _) in self._where.items()})
        if renamed is not None:
            self._where = renamed(self._where)
        self._quantisation = dict(quantisation or {})
        method = self._quantisation.get("quant_method")
        if method not in (None, "fp8", "mxfp4"):
            raise CheckpointError(
                f"{files[0].parent}: its weights are quantised as '{method}'; fp8 (DeepSeek) and mxfp4 "
                "(gpt-oss) are read here, save others in bfloat16 first"
            )
        self._parts = self._quantised_parts(method)
        self._open: tuple[Path, io.FileIO] | None = None
        self._scratch = torch.empty(0, dtype=torch.uint8)

    def __iter__(self) -> Iterator[str]:
        """Names, file by file in the order of their bytes."""
        hidden = {part for parts in self._parts.values() for part in parts}
        shown = {parts[0]: name for name, parts in self._parts.items()}
        for name in self._where:
            if name in shown:
                yield shown[name]
            elif name not in hidden:
                yield name

    def __contains__(self, name: str) -> bool:
        return name in self._parts or name in self._where

    @property
    def quantised(self) -> bool:
        """Whether any tensor is stored in a narrower form than it is used."""
        return bool(self._parts)

    @property
    def bytes_by_type(self) -> dict[str, int]:
        """Bytes on disk by type, as safetensors names it."""
        total: Counter[str] = Counter()
        for _, entry in self._where.values():
            total[entry.dtype] += entry.end - entry.start
        return dict(total)

    def file(self, name: str) -> Path:
        """The file that holds a tensor (the larger part of a quantised one)."""
        return self._where[self._parts.get(name, (name,))[0]][0]

    def stored_name(self, name: str) -> str:
        """What the file calls a tensor, or the tensor that it is a part of."""
        return self._where[self._parts.get(name, (name,))[0]][1].stored or name

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of the tensor that `read` returns."""
        shape = self._where[self._parts.get(name, (name,))[0]][1].shape
        if name not in self._parts or self._quantisation["quant_method"] == "fp8":
            return shape
        experts, rows, blocks, half = shape
        return (experts, blocks * half * 2, rows)

    def dtype(self, name: str) -> torch.dtype:
        """The type of the tensor that `read` returns: that on disk, or float32 for a quantised tensor."""
        return torch.float32 if name in self._parts else self._dtype(name)

    def read(self, name: str) -> Tensor:
        """The tensor, in new memory; a quantised one is float32."""
        if name not in self._parts:
            return self._raw(name)
        first, second = (self._raw(part) for part in self._parts[name])
        if self._quantisation["quant_method"] == "mxfp4":
            return mxfp4(first, second).transpose(1, 2)
        rows, columns = self._quantisation.get("weight_block_size") or (128, 128)
        expected = (-(-first.shape[0] // rows), -(-first.shape[1] // columns))
        if tuple(second.shape) != expected:
            raise CheckpointError(
                f"{self.file(name)}: '{name}' has scales of shape {tuple(second.shape)}, "
                f"its blocks need {expected}"
            )
        return fp8_blocks(first, second, rows, columns)

    def read_into(self, name: str, target: Tensor, part: Callable[[Tensor], Tensor] | None = None) -> None:
        """Copy a tensor, or the view `part` of it, into `target`; see `TensorSource.read_into`."""
        if name in self._parts:
            self._unpack_into(name, target, part)
            return
        start, shape, dtype = 0, self._where[name][1].shape, self._dtype(name)
        if part is not None:
            view = part(torch.empty(shape, dtype=dtype, device="meta"))
            if view.is_contiguous():  # one range of bytes, so nothing else is read
                start, shape, part = int(view.storage_offset()) * dtype.itemsize, tuple(view.shape), None
        if part is None and target.dtype == dtype and target.is_contiguous() and target.device.type == "cpu":
            self._read_bytes(name, _bytes_of(target), start)
            return
        size = math.prod(shape) * dtype.itemsize
        if self._scratch.numel() < size:
            self._scratch = torch.empty(size, dtype=torch.uint8)
        self._read_bytes(name, _bytes_of(self._scratch[:size]), start)
        stored = self._scratch[:size].view(dtype).view(shape)
        target.copy_(stored if part is None else part(stored))

    def _unpack_into(self, name: str, target: Tensor, part: Callable[[Tensor], Tensor] | None) -> None:
        """`read_into` of a quantised tensor; MXFP4 expert by expert, so that no layer is in memory twice."""
        if part is not None:
            target.copy_(part(self.read(name)))
        elif self._quantisation["quant_method"] != "mxfp4":
            target.copy_(self.read(name))
        else:
            for expert in range(self.shape(name)[0]):
                target[expert].copy_(self.read_part(name, expert))

    def read_part(self, name: str, index: int) -> Tensor:
        """`read(name)[index]`; of a tensor in MXFP4, only this part is unpacked."""
        if name not in self._parts or self._quantisation["quant_method"] != "mxfp4":
            return self.read(name)[index]
        one = slice(index, index + 1)
        blocks, scales = (self._raw(part) for part in self._parts[name])
        return mxfp4(blocks[one], scales[one])[0].T

    def release(self) -> None:
        """Close the open file and free the buffer; the tensors can still be read afterwards."""
        self._open, self._scratch = None, torch.empty(0, dtype=torch.uint8)

    def _quantised_parts(self, method: str | None) -> dict[str, tuple[str, str]]:
        """Name -> the two tensors on disk that encode it: numbers and scales."""
        parts: dict[str, tuple[str, str]] = {}
        for name, (file, entry) in self._where.items():
            if method == "fp8" and entry.dtype == "F8_E4M3":
                parts[name] = (name, f"{name}_scale_inv")
            elif method == "mxfp4" and name.endswith("_blocks"):
                parts[name.removesuffix("_blocks")] = (name, f"{name.removesuffix('_blocks')}_scales")
            elif entry.dtype.startswith(("F8_", "F6_", "F4")):
                raise CheckpointError(
                    f"{file}: '{name}' is stored as {entry.dtype}, but config.json has no "
                    "quantization_config for it"
                )
        for name, (_, scale) in parts.items():
            if scale not in self._where:
                raise CheckpointError(
                    f"{self._where[parts[name][0]][0]}: '{name}' is quantised and '{scale}' is missing"
                )
        return parts

    def _raw(self, name: str) -> Tensor:
        entry = self._where[name][1]
        tensor = torch.empty(entry.end - entry.start, dtype=torch.uint8)
        self._read_bytes(name, _bytes_of(tensor))
        return tensor.view(self._dtype(name)).view(entry.shape)

    def _dtype(self, name: str) -> torch.dtype:
        file, entry = self._where[name]
        if entry.dtype not in _DTYPES:
            raise CheckpointError(f"{file}: '{name}' is stored as {entry.dtype}, which cannot be read here")
        return _DTYPES[entry.dtype]

    def _read_bytes(self, name: str, memory: memoryview, start: int = 0) -> None:
        """Fill `memory` from a tensor's bytes, beginning at byte `start` of them.

        Reads straight into the memory: a mapped file faults in page by page, which is many times slower.
        """
        file, entry = self._where[name]
        try:
            if self._open is None or self._open[0] != file:
                self._open = (file, open(file, "rb", buffering=0))  # noqa: SIM115 (closed with the last reference)
            handle = self._open[1]
            handle.seek(entry.start + start)
            at = 0
            while at < len(memory):
                count = handle.readinto(memory[at : at + _READ])
                if not count:
                    raise _damaged(file, f"'{name}' ends early")
                at += count
        except OSError as error:
            raise CheckpointError(f"{file}: '{name}' cannot be read ({error.strerror})") from None


def _bytes_of(tensor: Tensor) -> memoryview:
    """The memory of a contiguous tensor, writable."""
    array: Any = tensor.detach().reshape(-1).view(torch.uint8).numpy()
    return memoryview(array)
