"""The tensors of a GGUF file under the names and shapes of the model's family, read one at a time.

The family's slots say which view of a parameter is which tensor of a Hugging Face directory, a `GgufSlot`
which tensor of the file holds which numbers of a parameter. Both together give a `TensorSource`, so loading,
converting and comparing need not know the format. E experts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from coterie.checkpoints.gguf_file.tensors import GgufTensors
from coterie.checkpoints.gguf_file.types import PLAIN
from coterie.checkpoints.quantised.encoded import Grid
from coterie.checkpoints.tensor_source import within_expert
from coterie.config import CheckpointError, ModelConfig
from coterie.families import Slot, family
from coterie.families.mapping import Held
from coterie.llamacpp.indexer import indexer_shapes, unused_indexers
from coterie.llamacpp.key_tables import FACTOR_TENSORS
from coterie.llamacpp.kinds import unused_projections
from coterie.llamacpp.layout import STORED_BUFFERS, gguf_slots
from coterie.llamacpp.slot import GgufSlot
from coterie.llamacpp.targets import target_of
from coterie.nn.transformer import Transformer


class GgufSource:
    """A `TensorSource` of a model in GGUF under its family's names.

    Layers past the decoder's last, which predict further tokens, are left out. Errors: `CheckpointError` for
    a tensor of the file that is missing, unexpected or of a wrong shape, before any is read.
    """

    def __init__(self, stored: GgufTensors, config: ModelConfig, where: Path) -> None:
        self._stored, self._where, self._layers = stored, where, config.num_layers
        with torch.device("meta"):
            model = Transformer(config)
        self._parameters: dict[str, Tensor] = {
            name: parameter.detach() for name, parameter in model.named_parameters()
        }
        self._parameters |= {
            name: buffer for name, buffer in model.named_buffers() if name.endswith(STORED_BUFFERS)
        }
        target = target_of(config)
        indexer = indexer_shapes(config, where) if target.indexer else {}
        self._parameters |= {name: torch.empty(shape, device="meta") for name, shape in indexer.items()}
        shapes = {name: tuple(tensor.shape) for name, tensor in self._parameters.items()}
        self._unused = unused_projections(config)
        if target.indexer:
            self._unused |= unused_indexers(config, where)
        self._parts: dict[str, list[GgufSlot]] = {}
        for part in gguf_slots(config, target, shapes, frozenset(stored)):
            self._parts.setdefault(part.name, []).append(part)
        self._check(target.name)
        self._slots: dict[str, list[Slot]] = {}
        for slot in (*family(config.family).slots(config), *(Slot(name, name) for name in indexer)):
            self._slots.setdefault(slot.disk, []).append(slot)
        order = {name: place for place, name in enumerate(stored)}
        self._names = sorted(self._slots, key=lambda disk: order[self._first(disk)])
        self._last: tuple[str, int, Tensor] | None = None  # parameter, expert, its numbers

    def _check(self, architecture: str) -> None:
        wanted = {slot.stored: slot for slots in self._parts.values() for slot in slots}
        for name in self._stored:
            if name in wanted:
                found, slot = self._stored.shape(name), wanted[name]
                if not slot.fits(found):
                    where, wants = self._stored.file(name), f"its keys ask for {slot.shape}"
                    raise CheckpointError(f"{where}: '{name}' has shape {found}, {wants}")
            elif name not in {*FACTOR_TENSORS, *self._unused} and layer_of(name) < self._layers:
                raise CheckpointError(
                    f"{self._stored.file(name)}: unexpected tensor '{name}'; it is not part of a model "
                    f"of the architecture '{architecture}' here"
                )
        missing = [name for name in wanted if name not in self._stored]
        if missing:
            raise CheckpointError(
                f"{self._where}: {len(missing)} tensor(s) missing, the first is '{missing[0]}'"
            )

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __contains__(self, name: str) -> bool:
        return name in self._slots

    @property
    def quantised(self) -> bool:
        """Whether any tensor is stored in a narrower form than `read` returns."""
        return self._stored.quantised

    @property
    def bytes_read(self) -> int:
        """Bytes read from the file so far."""
        return self._stored.bytes_read

    @property
    def bytes_by_type(self) -> dict[str, int]:
        """Bytes in the file by type, as llama.cpp names it."""
        return self._stored.bytes_by_type

    def file(self, name: str) -> Path:
        """The file that holds the tensor."""
        return self._stored.file(self._first(name))

    def stored_name(self, name: str) -> str:
        """The name under which a directory would have the tensor: its own."""
        return name

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of the tensor that `read` returns."""
        slot = self._slots[name][0]
        return slot.disk_shape(self._parameters[slot.name])

    def dtype(self, name: str) -> torch.dtype:
        """The type of the tensor that `read` returns: that in the file, float32 for a quantised one."""
        kinds = {
            self._stored.dtype(part.stored) for slot in self._slots[name] for part in self._parts[slot.name]
        }
        return kinds.pop() if len(kinds) == 1 else torch.float32

    def form(self, name: str) -> str | None:
        """The quantised forms of a tensor, as llama.cpp names them; None for a plain one."""
        parts = [part for slot in self._slots[name] for part in self._parts[slot.name]]
        kinds = sorted({self._stored.type(part.stored) for part in parts} - PLAIN.keys())
        return ", ".join(kinds) or None

    def read(self, name: str) -> Tensor:
        """The whole tensor, in new memory."""
        result = torch.empty(self.shape(name), dtype=self.dtype(name))
        for slot in self._slots[name]:
            self._fill(slot, slot.part(result))
        return result

    def read_part(self, name: str, index: int) -> Tensor:
        """`read(name)[index]`; of stacked experts only this one is read."""
        (slot, *others) = self._slots[name]
        parameter = self._parameters[slot.name]
        all_experts = parameter.dim() == 3 and math.prod(self.shape(name)) == parameter.numel()
        if others or slot.within is not None or not all_experts:
            return self.read(name)[index]
        shape = parameter.shape[1:]
        return slot.view(self._expert(slot.name, index).view(1, *shape))[0].clone()

    def read_into(self, name: str, target: Tensor, part: Callable[[Tensor], Tensor] | None = None) -> None:
        """Copy the tensor, or the view `part` of it, into `target`; see `TensorSource.read_into`."""
        if part is None:
            for slot in self._slots[name]:
                self._fill(slot, slot.part(target))
            return
        one = within_expert(self.shape(name), part)
        target.copy_(part(self.read(name)) if one is None else one[1](self.read_part(name, one[0])))

    def expect(self, name: str, part: Callable[[Tensor], Tensor]) -> None:
        """Nothing: blocks are unpacked one expert at a time."""

    def grid(self, name: str) -> Grid | None:
        """The grid that holds a tensor's numbers exactly; see `TensorSource.grid`."""
        (slot, *others) = self._slots[name]
        parameter = self._parameters[slot.name]
        grids = {
            self._stored.grid(part.stored) if part.of_rows(parameter) else None
            for part in self._parts[slot.name]
        }
        return grids.pop() if len(grids) == 1 and not others else None

    def codes(self, name: str) -> tuple[Tensor, Tensor]:
        """Codes and scales of a tensor that has a grid; see `TensorSource.codes`."""
        slot = self._slots[name][0]
        parameter, parts = self._parameters[slot.name], self._parts[slot.name]
        rows, expert = parameter.shape[:-1], None
        if parameter.dim() == 3:
            expert = int(slot.view(parameter).storage_offset()) // math.prod(parameter.shape[1:])
        found = [self._stored.codes(part.stored, expert) for part in parts]
        both = []
        for stored in zip(*found, strict=True):  # the codes of all parts, then their scales
            width = stored[0].shape[-1]
            if expert is None:
                local = torch.empty(*rows, width, dtype=stored[0].dtype)
            else:
                local = torch.empty(1, rows[1], width, dtype=stored[0].dtype)
            for part, tensor in zip(parts, stored, strict=True):
                part.unpack(tensor if expert is None else tensor[None], local)
            if expert is None:
                both.append(slot.view(local))
                continue
            block = slot.block(local, Held((*rows, width), (slice(expert, expert + 1),)))
            assert block is not None
            both.append(block[0])
        return both[0], both[1]

    def release(self) -> None:
        """Close files and free buffers; the tensors can still be read afterwards."""
        self._last = None
        self._stored.release()

    def _first(self, disk: str) -> str:
        return self._parts[self._slots[disk][0].name][0].stored

    def _fill(self, slot: Slot, target: Tensor) -> None:
        """Copy a slot's numbers into `target`, expert by expert where the parameter holds experts."""
        parameter = self._parameters[slot.name]
        view = slot.view(parameter)  # on the meta device: its offset tells which experts it meets
        if parameter.dim() < 3:
            if view.shape == parameter.shape and view.stride() == parameter.stride():
                self._read_straight(slot.name, target)
            else:
                target.copy_(slot.view(self._whole(slot.name)))
            return
        size = math.prod(parameter.shape[1:])
        first = int(view.storage_offset()) // size
        count = parameter.shape[0] if view.numel() == parameter.numel() else 1
        if view.numel() > size and count == 1:
            raise CheckpointError(f"'{slot.disk}' holds several experts, but not all; it is not read here")
        for expert in range(first, first + count):
            held = Held(tuple(parameter.shape), (slice(expert, expert + 1),))
            local = self._expert(slot.name, expert).view(1, *parameter.shape[1:])
            found = slot.block(local, held)
            assert found is not None
            numbers, index = found
            target[index].copy_(numbers)

    def _used(self, name: str) -> list[GgufSlot]:
        (part, *others) = self._parts[name]
        if part.stored == "output.weight" or (others and others[0].stored == "output.weight"):
            others = []  # a tied embedding that the file repeats
        return [part, *others]

    def _read_straight(self, name: str, target: Tensor) -> None:
        """Fill `target`, which has the parameter's shape, without the tensor in memory a second time."""
        for part in self._used(name):
            part.read_into(self._stored, target)

    def _whole(self, name: str) -> Tensor:
        parts = self._used(name)
        stored = [self._stored.read(one.stored) for one in parts]
        parameter = torch.empty(self._parameters[name].shape, dtype=stored[0].dtype)
        for one, tensor in zip(parts, stored, strict=True):
            one.unpack(tensor, parameter)
        return parameter

    def _expert(self, name: str, expert: int) -> Tensor:
        """One expert's numbers of a parameter; kept, since its matrices are asked for in turn."""
        if self._last is None or self._last[:2] != (name, expert):
            parts = self._parts[name]
            shape = (1, *self._parameters[name].shape[1:])
            numbers = torch.empty(shape, dtype=self._stored.dtype(parts[0].stored))
            for part in parts:
                part.unpack(self._stored.read_part(part.stored, expert)[None], numbers)
            self._last = (name, expert, numbers)
        return self._last[2]


def layer_of(name: str) -> int:
    """The number of the layer in a tensor's name; -1 for others."""
    parts = name.split(".")
    return int(parts[1]) if parts[0] == "blk" and len(parts) > 1 and parts[1].isdecimal() else -1
