"""A checkpoint's tensors under coterie's own parameter names, read from disk one tensor, or one expert, at a
time.

The family's slots say where each tensor on disk lies inside a parameter, so this works for every family and
needs no second table of names. E experts.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from coterie.checkpoints.directory import open_tensors, read_config
from coterie.config import CheckpointError, ModelConfig
from coterie.families import Slot, family
from coterie.nn.transformer import Transformer


class ParameterSource:
    """`config` and the parameters of a checkpoint directory, each read when it is asked for.

    `shapes`: every parameter and selection bias by our name. `left_out`: beginnings of names that are on disk
    but no part of the decoder. Errors: `CheckpointError` for missing, unexpected and wrongly shaped tensors,
    before any is read.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.stored = open_tensors(directory)
        self.config: ModelConfig = read_config(directory)
        self.left_out: list[str] = []
        first = self.config.num_layers
        self._beyond = tuple(f"model.layers.{first + depth}." for depth in range(self.config.num_mtp_layers))
        self.config = self.config.model_copy(update={"num_mtp_layers": 0})
        if any(name.startswith(self._beyond) for name in self.stored if self._beyond):
            self.left_out.append(f"{self._beyond[0]}* (layers that predict further tokens)")
        with torch.device("meta"):
            model = Transformer(self.config)
        own: dict[str, Tensor] = {name: parameter.detach() for name, parameter in model.named_parameters()}
        own |= {name: buffer for name, buffer in model.named_buffers() if name.endswith("select_bias")}
        self._parameters = own
        self.shapes = {name: tuple(tensor.shape) for name, tensor in own.items()}
        self._slots: dict[str, list[Slot]] = {name: [] for name in own}
        self._check(family(self.config.family).slots(self.config))

    def _check(self, slots: list[Slot]) -> None:
        expected = {slot.disk for slot in slots}
        for slot in slots:
            if slot.disk not in self.stored:
                raise CheckpointError(f"{self.directory}: tensor '{slot.disk}' is missing")
            shape = tuple(slot.view(self._parameters[slot.name]).shape)
            if self.stored.shape(slot.disk) != shape:
                raise CheckpointError(
                    f"{self.stored.file(slot.disk)}: '{slot.disk}' has shape {self.stored.shape(slot.disk)}, the "
                    f"config asks for {shape}"
                )
            self._slots[slot.name].append(slot)
        empty = [name for name, own in self._slots.items() if not own]
        if empty:
            raise CheckpointError(f"{self.directory}: parameter '{empty[0]}' is stored nowhere")
        carried = family(self.config.family).carried
        self.left_out += [f"{start}* (image encoder)" for start in carried]
        for name in self.stored:
            known = (
                name in expected or name.startswith((*carried, *self._beyond)) or name.endswith("inv_freq")
            )
            if not known and not (self.config.tie_embeddings and self._repeats_embedding(name)):
                raise CheckpointError(f"{self.stored.file(name)}: unexpected tensor '{name}'")

    def _repeats_embedding(self, name: str) -> bool:
        (slot,) = self._slots["embed.weight"]
        return name.endswith("lm_head.weight") and torch.equal(
            self.stored.read(slot.disk), self.stored.read(name)
        )

    def read(self, name: str) -> Tensor:
        """A parameter that is one tensor on disk (all but the experts' weights): a view of the file if it is
        plain.
        """
        (slot,) = self._slots[name]
        return slot.view(self.stored.read(slot.disk))

    def experts(self, name: str, rows: slice = slice(None)) -> Iterator[Tensor]:
        """Rows `rows` of the parts of a parameter (E, out, in) along its first dimension, one in memory at a
        time.
        """
        count, height, width = self.shapes[name]
        wanted = range(*rows.indices(height))
        parts: list[list[tuple[Slot, bool, Tensor]]] = [[] for _ in range(count)]
        for slot in self._slots[name]:
            view = slot.view(self._parameters[name])
            if view.numel() == count * height * width:
                for index in range(count):
                    parts[index].append((slot, True, view[index]))
                continue
            index, inside = divmod(int(view.storage_offset()), height * width)
            first = inside // width
            if first < wanted.stop and first + view.shape[0] > wanted.start:
                parts[index].append((slot, False, view))
        for index, places in enumerate(parts):
            buffer = torch.empty((height, width), dtype=torch.float32)
            for slot, fused, view in places:
                offset = view.storage_offset() - index * height * width
                target = buffer.as_strided(view.shape, view.stride(), offset)
                target.copy_(
                    self.stored.read_part(slot.disk, index) if fused else self.stored.read(slot.disk)
                )
            yield buffer[rows]
