"""The tensors of a directory's safetensors files, in whatever form they are stored, by the family's names."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from coterie.checkpoints.locate import check_index
from coterie.checkpoints.quantised.encoded import EncodedTensor, FormFacts, Grid
from coterie.checkpoints.quantised.methods import collect_tensors
from coterie.checkpoints.quantised.settings import QuantSettings
from coterie.checkpoints.tensor_reader import Entries, FileBytes, Plain, read_header
from coterie.checkpoints.tensor_source import within_expert
from coterie.config import CheckpointError
from coterie.families.mapping import extent

Tensors = dict[str, Plain | EncodedTensor]


class StoredTensors:
    """All tensors of a checkpoint's safetensors files, under the names and shapes that a model uses.

    `quantisation`: what the directory says of it (None: plain). `renamed`: gives the tensors the names
    and shapes of the model's family (default: those of the files). Errors: `CheckpointError` for damaged
    files, a tensor in two files, and quantised weights that are not read here (see `collect_tensors`).
    """

    def __init__(
        self,
        files: list[Path],
        quantisation: QuantSettings | None = None,
        renamed: Callable[[Tensors], Tensors] | None = None,
    ) -> None:
        self._entries: Entries = {}
        for file in files:
            for name, entry in read_header(file).items():
                if name in self._entries:
                    raise CheckpointError(f"{file}: tensor '{name}' is in {self._entries[name][0].name} too")
                self._entries[name] = (file, entry)
        check_index(files[0].parent, {name: file for name, (file, _) in self._entries.items()})
        self._files = FileBytes()
        tensors = collect_tensors(self._entries, self._files, quantisation, files[0].parent)
        self._tensors = tensors if renamed is None else renamed(tensors)

    def __iter__(self) -> Iterator[str]:
        """Names, file by file in the order of their bytes."""
        return iter(self._tensors)

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    @property
    def quantised(self) -> bool:
        """Whether any tensor is stored in a narrower form than it is used."""
        return any(isinstance(tensor, EncodedTensor) for tensor in self._tensors.values())

    @property
    def bytes_read(self) -> int:
        """Bytes read from files so far."""
        return self._files.bytes_read

    @property
    def bytes_by_type(self) -> dict[str, int]:
        """Bytes on disk by type, as safetensors names it."""
        total: Counter[str] = Counter()
        for _, entry in self._entries.values():
            total[entry.dtype] += entry.end - entry.start
        return dict(total)

    @property
    def forms(self) -> list[FormFacts]:
        """The quantised forms among the tensors, from the headers alone."""
        found: dict[str, FormFacts] = {}
        for tensor in self._tensors.values():
            if isinstance(tensor, EncodedTensor):
                facts = found.setdefault(tensor.form.label, FormFacts(tensor.form.label))
                facts.tensors += 1
                facts.numbers += math.prod(tensor.shape)
                facts.bytes += tensor.nbytes
        return list(found.values())

    def form(self, name: str) -> str | None:
        """The quantised form of a tensor in words; None for a plain one."""
        tensor = self._tensors[name]
        return tensor.form.label if isinstance(tensor, EncodedTensor) else None

    def file(self, name: str) -> Path:
        """The file that holds a tensor (the numbers of a quantised one)."""
        return self._tensors[name].file

    def stored_name(self, name: str) -> str:
        """What the file calls a tensor, or the tensor that it is a part of."""
        return self._tensors[name].name

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of the tensor that `read` returns."""
        return self._tensors[name].shape

    def dtype(self, name: str) -> torch.dtype:
        """The type of the tensor that `read` returns: that on disk, or float32 for a quantised tensor."""
        return self._tensors[name].dtype

    def read(self, name: str) -> Tensor:
        """The tensor, in new memory; a quantised one is float32."""
        tensor = self._tensors[name]
        if isinstance(tensor, EncodedTensor):
            return tensor.read(self._files)
        return self._files.tensor(tensor.name, (tensor.file, tensor.entry))

    def read_into(self, name: str, target: Tensor, part: Callable[[Tensor], Tensor] | None = None) -> None:
        """Copy a tensor, or the view `part` of it, into `target`; see `TensorSource.read_into`."""
        tensor = self._tensors[name]
        if isinstance(tensor, Plain):
            self._copy_into(tensor, target, part)
        elif part is not None:
            one = within_expert(tensor.shape, part)
            if one is None:
                target.copy_(part(tensor.read(self._files)))
            else:
                target.copy_(one[1](tensor.expert(one[0]).read(self._files)))
        elif len(tensor.shape) == 3:  # expert by expert, so that no layer is in memory twice
            for expert in range(tensor.shape[0]):
                target[expert].copy_(tensor.expert(expert).read(self._files))
        else:
            target.copy_(tensor.read(self._files))

    def _copy_into(self, tensor: Plain, target: Tensor, part: Callable[[Tensor], Tensor] | None) -> None:
        start, shape, dtype, place = 0, tensor.shape, tensor.dtype, (tensor.file, tensor.entry)
        if part is not None:
            view = part(torch.empty(shape, dtype=dtype, device="meta"))
            first, last = extent(view)  # one range of bytes, so nothing else is read
            start = first * dtype.itemsize
            if view.is_contiguous():
                shape, part = tuple(view.shape), None
            else:
                shape, part = (last + 1 - first,), lambda flat: flat.as_strided(view.shape, view.stride(), 0)
        if part is None and target.dtype == dtype and target.is_contiguous() and target.device.type == "cpu":
            self._files.fill(tensor.name, place, target, start)
            return
        buffer = self._files.buffer(math.prod(shape) * dtype.itemsize)
        self._files.fill(tensor.name, place, buffer, start)
        stored = buffer.view(dtype).view(shape)
        target.copy_(stored if part is None else part(stored))

    def expect(self, name: str, part: Callable[[Tensor], Tensor]) -> None:
        """Have the system read the part's bytes ahead; see `TensorSource.expect`."""
        tensor = self._tensors[name]
        if isinstance(tensor, EncodedTensor):
            one = within_expert(tensor.shape, part)
            places = (tensor if one is None else tensor.expert(one[0])).places.values()
            for file, entry in places:
                self._files.expect(file, entry.start, entry.end - entry.start)
            return
        first, last = extent(part(torch.empty(tensor.shape, device="meta")))
        size = tensor.dtype.itemsize
        self._files.expect(tensor.file, tensor.entry.start + first * size, (last + 1 - first) * size)

    def read_part(self, name: str, index: int) -> Tensor:
        """`read(name)[index]`; of a quantised tensor of all experts, only this part is unpacked."""
        tensor = self._tensors[name]
        if isinstance(tensor, EncodedTensor) and len(tensor.shape) == 3:
            return tensor.expert(index).read(self._files)
        return self.read(name)[index]

    def grid(self, name: str) -> Grid | None:
        """The grid that holds a tensor's numbers exactly; see `TensorSource.grid`."""
        tensor = self._tensors[name]
        return tensor.grid(self._files) if isinstance(tensor, EncodedTensor) else None

    def codes(self, name: str) -> tuple[Tensor, Tensor]:
        """Codes and scales of a tensor that has a grid; see `TensorSource.codes`."""
        tensor = self._tensors[name]
        assert isinstance(tensor, EncodedTensor)
        return tensor.codes(self._files)

    def release(self) -> None:
        """Close the open file and free the buffer; the tensors can still be read afterwards."""
        self._files.release()
