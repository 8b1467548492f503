"""The tensors of a GGUF model under the file's own names, unpacked piece by piece into their target."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from coterie.checkpoints.gguf_file.blocks import PIECE, SCALED, NotFiniteError, unpack_blocks
from coterie.checkpoints.gguf_file.header import GgufHeader, TensorPlace
from coterie.checkpoints.gguf_file.split import read_headers
from coterie.checkpoints.gguf_file.types import PLAIN
from coterie.checkpoints.quantised.encoded import Grid
from coterie.checkpoints.tensor_reader import FileBytes
from coterie.config import CheckpointError

T = TypeVar("T")


class GgufTensors:
    """A `TensorSource` of all tensors of a model in GGUF, and its `keys`.

    Blocks are read as float32. `headers`: of all its files, in order (see `open`).
    """

    def __init__(self, headers: tuple[GgufHeader, ...]) -> None:
        self.keys: dict[str, Any] = headers[0].keys
        self.paths = tuple(header.path for header in headers)
        self._where: dict[str, tuple[Path, TensorPlace]] = {
            name: (header.path, place) for header in headers for name, place in header.tensors.items()
        }
        # NVFP4 has one more factor in another tensor; that for rounded activations is not used here.
        self._factors: dict[str, str] = {}
        self._hidden: set[str] = set()
        for name, (_, place) in self._where.items():
            stem = name.removesuffix(".weight")
            if place.type.name == "NVFP4" and stem != name:
                self._hidden |= {f"{stem}.scale", f"{stem}.input_scale"}
                if f"{stem}.scale" in self._where:
                    self._factors[name] = f"{stem}.scale"
        self._files = FileBytes()
        self._packed = torch.empty(0, dtype=torch.uint8)
        self._numbers = torch.empty(0)

    @classmethod
    def open(cls, path: str | Path) -> GgufTensors:
        """The model of a file, or of any part of a split one. Errors: those of `read_headers`."""
        return cls(read_headers(Path(path)))

    def __iter__(self) -> Iterator[str]:
        """Names, file by file in the order of their bytes."""
        return (name for name in self._where if name not in self._hidden)

    def __contains__(self, name: str) -> bool:
        return name in self._where and name not in self._hidden

    @property
    def quantised(self) -> bool:
        """Whether any tensor is stored in blocks."""
        return any(place.type.block > 1 for _, place in self._where.values())

    def expect(self, name: str, part: Callable[[Tensor], Tensor]) -> None:
        """Nothing is read ahead."""

    @property
    def bytes_read(self) -> int:
        """Bytes read from the files so far."""
        return self._files.bytes_read

    @property
    def bytes_by_type(self) -> dict[str, int]:
        """Bytes on disk by type, as ggml names it."""
        total: Counter[str] = Counter()
        for _, place in self._where.values():
            total[place.type.name] += place.end - place.start
        return dict(total)

    def file(self, name: str) -> Path:
        """The file that holds a tensor."""
        return self._place(name)[0]

    def type(self, name: str) -> str:
        """The type of a tensor on disk, as ggml names it ("Q4_K")."""
        return self._place(name)[1].type.name

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, rows last: (out, in), (experts, out, in)."""
        return self._place(name)[1].shape

    def dtype(self, name: str) -> torch.dtype:
        """The type of the tensor that `read` returns: that on disk, float32 for blocks."""
        return PLAIN.get(self.type(name), torch.float32)

    def read(self, name: str) -> Tensor:
        """The whole tensor, in new memory. Errors: `CheckpointError` for a damaged file."""
        return self._read(name, 0, self.shape(name))

    def read_part(self, name: str, index: int) -> Tensor:
        """`read(name)[index]`: one expert, or one row. The rest is not read."""
        shape = self.shape(name)[1:]
        if not shape:
            return self.read(name)[index]
        return self._read(name, index * math.prod(shape[:-1]), shape)

    def read_rows(self, name: str, start: int, stop: int) -> Tensor:
        """(stop - start, I): rows of the tensor flattened to (rows, I). The rest is not read."""
        return self._read(name, start, (stop - start, self.shape(name)[-1]))

    def packed_rows(self, name: str, start: int, stop: int) -> Tensor:
        """(stop - start, bytes of a row) uint8: rows as `read_rows` counts them, as they are stored."""
        return self._bytes(name, start, stop - start).view(stop - start, -1)

    def read_into(self, name: str, target: Tensor, part: Callable[[Tensor], Tensor] | None = None) -> None:
        """Copy a tensor, or the view `part` of it, into `target`; see `TensorSource.read_into`.

        The target may also split leading dimensions, and be strided, so that rows are reordered on their way:
        a target of shape (heads, half, 2, in) takes a tensor (heads * half * 2, in). A part of whole rows is
        read without the rest.
        """
        shape, first = self.shape(name), 0
        if part is not None:
            view = part(torch.empty(shape, dtype=self.dtype(name), device="meta"))
            offset, row = int(view.storage_offset()), shape[-1]
            if not view.is_contiguous() or offset % row or view.shape[-1:] != shape[-1:]:
                target.copy_(part(self.read(name)))
                return
            shape, first = tuple(view.shape), offset // row
        if target.numel() != math.prod(shape) or target.shape[-1:] != shape[-1:]:
            raise CheckpointError(
                f"{self.file(name)}: '{name}' gives {shape}, which does not fill {tuple(target.shape)}"
            )
        self._fill(name, first, target)

    def grid(self, name: str) -> Grid | None:
        """The grid that holds a tensor's numbers exactly, such as int4 in blocks of 32 for Q4_0.

        None for types with an offset or a codebook, and where another tensor scales this one.
        """
        form = SCALED.get(self.type(name))
        if form is None or name in self._factors:
            return None
        return Grid(form.bits, form.group, form.held)

    def codes(self, name: str, index: int | None = None) -> tuple[Tensor, Tensor]:
        """Of a tensor that has a grid: codes (*, O, I) int8 and scales (*, O, B), or those of expert `index`.

        Code times scale in float32 is the number that `read` gives, bit for bit.
        """
        (_, place), form = self._place(name), SCALED[self.type(name)]
        shape = place.shape if index is None else place.shape[1:]
        rows = math.prod(shape[:-1])
        codes = torch.empty(shape, dtype=torch.int8)
        scales = torch.empty(*shape[:-1], shape[-1] // form.group, dtype=form.held)
        flat_codes, flat_scales, step = (
            codes.view(rows, -1),
            scales.view(rows, -1),
            max(1, PIECE // shape[-1]),
        )
        for start in range(0, rows, step):
            stop = min(rows, start + step)
            packed = self._bytes(name, (index or 0) * rows + start, stop - start, again=True)
            raw = packed.view(-1, place.type.nbytes)
            flat_codes[start:stop] = form.signed(raw).reshape(stop - start, -1)
            flat_scales[start:stop] = self._finite(name, form.scales, raw).view(stop - start, -1)
        return codes, scales

    def release(self) -> None:
        """Close the open file and free the buffers; the tensors can still be read afterwards."""
        self._files.release()
        self._packed, self._numbers = self._packed[:0].clone(), self._numbers[:0].clone()

    def _place(self, name: str) -> tuple[Path, TensorPlace]:
        if name not in self._where:
            raise CheckpointError(f"{self.paths[0]}: has no tensor '{name}'")
        return self._where[name]

    def _read(self, name: str, first: int, shape: tuple[int, ...]) -> Tensor:
        target = torch.empty(shape, dtype=self.dtype(name))
        self._fill(name, first, target)
        return target

    @torch.no_grad()
    def _fill(self, name: str, first: int, target: Tensor) -> None:
        """Fill `target` (..., I) from row `first` on, in pieces of its leading dimension."""
        if not target.numel():
            return
        target = target[None] if target.dim() == 1 else target
        rows = math.prod(target.shape[1:-1])
        if target.dim() > 2 and rows * target.shape[-1] > PIECE:
            for index in range(len(target)):
                self._fill(name, first + index * rows, target[index])
            return
        step = max(1, PIECE // (rows * target.shape[-1]))
        for start in range(0, len(target), step):
            piece = target[start : start + step]
            self._fill_piece(name, first + start * rows, len(piece) * rows, piece)

    def _fill_piece(self, name: str, first: int, rows: int, piece: Tensor) -> None:
        kind = self._place(name)[1].type
        direct = piece.is_contiguous() and piece.device.type == "cpu" and piece.dtype == self.dtype(name)
        if kind.block == 1 and direct:
            self._read_bytes(name, first, rows, piece)
            return
        raw = self._bytes(name, first, rows, again=True)
        if kind.block == 1:
            piece.copy_(raw.view(PLAIN[kind.name]).view(piece.shape))
            return
        numbers = piece if direct else self._scratch(piece.numel())
        self._finite(name, unpack_blocks, raw.view(-1, kind.nbytes), kind.name, numbers)
        if name in self._factors:
            numbers.view(rows, -1).mul_(self._row_factors(name)[first : first + rows, None])
        if not direct:
            piece.copy_(numbers.view(piece.shape))

    def _scratch(self, size: int) -> Tensor:
        if self._numbers.numel() < size:
            self._numbers = torch.empty(size)
        return self._numbers[:size]

    def _bytes(self, name: str, first: int, rows: int, again: bool = False) -> Tensor:
        """The bytes of some rows, in memory that is used `again` for the next ones, or else new."""
        _, place = self._place(name)
        size = rows * (place.shape[-1] // place.type.block * place.type.nbytes)
        if not again:
            raw = torch.empty(size, dtype=torch.uint8)
        else:
            if self._packed.numel() < size:
                self._packed = torch.empty(size, dtype=torch.uint8)
            raw = self._packed[:size]
        self._read_bytes(name, first, rows, raw)
        return raw

    def _read_bytes(self, name: str, first: int, rows: int, memory: Tensor) -> None:
        """Fill contiguous memory from some rows."""
        file, place = self._place(name)
        size = place.shape[-1] // place.type.block * place.type.nbytes
        if first < 0 or place.start + (first + rows) * size > place.end:
            raise CheckpointError(f"{file}: '{name}' has no rows {first:,} to {first + rows:,}")
        self._files.fill_from(file, place.start + first * size, memory, name)

    def _finite(self, name: str, unpack: Callable[..., T], *blocks: Any) -> T:
        try:
            return unpack(*blocks)
        except NotFiniteError:
            raise CheckpointError(
                f"{self.file(name)}: '{name}' has a scale that is infinite or not a number; the file is "
                "damaged, fetch or convert it again"
            ) from None

    def _row_factors(self, name: str) -> Tensor:
        """(rows,) what an NVFP4 tensor is multiplied by: one number in all, or one per expert."""
        shape, factors = self.shape(name), self._read(self._factors[name], 0, self.shape(self._factors[name]))
        rows = math.prod(shape[:-1])
        if factors.numel() not in (1, shape[0] if len(shape) == 3 else 1):
            raise CheckpointError(
                f"{self.file(name)}: '{self._factors[name]}' has {factors.numel()} numbers, '{name}' needs "
                "one in all or one per expert"
            )
        return factors.float().flatten().repeat_interleave(rows // factors.numel())
