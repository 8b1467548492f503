"""The parameters of a checkpoint by our names, read from disk one tensor, or one expert, at a time.

The family's slots say where each tensor on disk belongs in a parameter, so this works for every family and
needs no second table of names. E experts.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from coterie.checkpoints.checkpoint import Checkpoint
from coterie.checkpoints.fill import as_stored, place_tensors
from coterie.config import CheckpointError, ModelConfig
from coterie.families import Slot, family, unwrapped
from coterie.families.mapping import whole
from coterie.llamacpp.indexer import indexer_shapes
from coterie.llamacpp.layout import STORED_BUFFERS
from coterie.llamacpp.targets import TARGETS
from coterie.nn.transformer import Transformer


class ParameterSource:
    """The parameters of an opened checkpoint; each is read from disk whenever it is asked for.

    `config`: of the text model, without layers for multi-token prediction, which llama.cpp does not run.
    `shapes`: every parameter and selection bias by our name, and an indexer's tensors by theirs on disk.
    `left_out`: prefixes of tensor names that are on disk but not part of the decoder. Errors:
    `CheckpointError` for missing, unexpected and wrongly shaped tensors, before any is read.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self._stored = checkpoint.tensors
        whole = as_stored(checkpoint.config, self._stored)
        self.config: ModelConfig = unwrapped(whole).model_copy(update={"num_mtp_layers": 0})
        with torch.device("meta"):
            model = Transformer(whole)
        placement = place_tensors(self._stored, model, checkpoint.path)
        own: dict[str, Tensor] = {name: parameter.detach() for name, parameter in model.named_parameters()}
        own |= {name: buffer for name, buffer in model.named_buffers() if name.endswith(STORED_BUFFERS)}
        self._parameters = {name: tensor for name, tensor in own.items() if not name.startswith("mtp.")}
        indexer = self._indexer(checkpoint.path)
        self._parameters |= indexer
        self.shapes = {name: tuple(tensor.shape) for name, tensor in self._parameters.items()}
        self._slots: dict[str, list[Slot]] = {name: [] for name in self._parameters}
        for slot in (*placement.slots, *(Slot(name, name) for name in indexer)):
            if slot.name in self._slots:
                self._slots[slot.name].append(slot)
        self.left_out: list[str] = []
        if whole.num_mtp_layers:
            self.left_out.append(f"model.layers.{whole.num_layers}.* (layers that predict further tokens)")
        last = range(whole.num_layers, whole.num_layers + whole.num_mtp_layers)
        named = (*indexer, *(f"model.layers.{layer}." for layer in last))  # in the file, or named above
        carried = [name for name in placement.carried if not name.startswith(named)]
        unused = [name for name in carried if ".layers." in name and ".self_attn." in name]
        if unused:
            self.left_out.append(f"{min(unused)} and others (projections that no layer uses)")
        further = family(whole.family).predicts(whole)
        words = {
            name.partition(".")[0]: "layers that predict further tokens"
            if name.startswith(further)
            else "image encoder"
            for name in carried
            if name not in unused
        }
        self.left_out += [f"{prefix}.* ({what})" for prefix, what in words.items()]

    def _indexer(self, where: Path) -> dict[str, Tensor]:
        """The tensors of an indexer, without values, by their names on disk: carried, and in the file."""
        target = TARGETS.get(self.config.family)
        if target is None or target.indexer is None:
            return {}
        shapes = indexer_shapes(self.config, where)
        for name, shape in shapes.items():
            if name not in self._stored or self._stored.shape(name) != shape:
                found = self._stored.shape(name) if name in self._stored else "missing"
                raise CheckpointError(
                    f"{where}: '{name}' is {found}, the sizes of the indexer in config.json ask for {shape}; "
                    "llama.cpp cannot run the model without it"
                )
        return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}

    def read(self, name: str) -> Tensor:
        """A whole parameter, for all but the weights of experts."""
        first, *others = self._slots[name]
        stored = first.part(self._stored.read(first.disk))
        if first.view is whole:
            return stored
        parameter = torch.empty(self.shapes[name], dtype=stored.dtype)
        first.view(parameter).copy_(stored)
        for slot in others:
            slot.view(parameter).copy_(slot.part(self._stored.read(slot.disk)))
        return parameter

    def experts(self, name: str, rows: slice = slice(None)) -> Iterator[Tensor]:
        """Rows `rows` of each expert of a parameter (E, out, in), as fp32, one expert in memory at a time."""
        count, height, width = self.shapes[name]
        wanted = range(*rows.indices(height))
        parts: list[list[tuple[Slot, bool, Tensor]]] = [[] for _ in range(count)]
        for slot in self._slots[name]:
            view = slot.view(self._parameters[name])
            if view.numel() == count * height * width:
                for index in range(count):
                    parts[index].append((slot, True, view[index]))
                continue
            # Parameters on the meta device have no values, but a view's offset tells its place in the whole.
            index, inside = divmod(int(view.storage_offset()), height * width)
            first = inside // width
            if first < wanted.stop and first + view.shape[0] > wanted.start:
                parts[index].append((slot, False, view))
        for index, places in enumerate(parts):
            buffer = torch.empty((height, width), dtype=torch.float32)
            for slot, fused, view in places:
                offset = view.storage_offset() - index * height * width
                target = buffer.as_strided(view.shape, view.stride(), offset)
                if fused:
                    target.copy_(self._stored.read_part(slot.disk, index))
                else:
                    target.copy_(slot.part(self._stored.read(slot.disk)))
            yield buffer[rows]
