"""Routed experts that stay in a checkpoint's files: where each lies, and how much memory they get.

E experts, O output and I input features, B blocks of a row.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from coterie.checkpoints.fill import Placement, Skeleton, read_slot, weight_bytes
from coterie.checkpoints.quantise import quantised_parts
from coterie.checkpoints.tensor_source import TensorSource
from coterie.config import CheckpointError, ConfigError
from coterie.config.expert_place import ExpertPlace
from coterie.families import Slot
from coterie.families.mapping import Held
from coterie.machine.system import weight_memory
from coterie.nn.experts import RoutedExperts
from coterie.nn.moe import MoE
from coterie.nn.quantised_tensor import QuantisedTensor
from coterie.nn.stored_experts import ExpertStore, MatrixForm, put_on_disk
from coterie.nn.transformer import Transformer


class ExpertFiles:
    """Reads the weights of single experts from a checkpoint's files; an `ExpertReader`.

    `slots`: those of the experts. `shapes`: of their parameters (E, O, I). A file that changed since is
    refused.
    """

    def __init__(
        self, source: TensorSource, slots: Iterable[Slot], shapes: Mapping[str, tuple[int, ...]]
    ) -> None:
        self._source, self._shapes = source, shapes
        self._slots: dict[str, list[list[Slot]]] = {
            name: [[] for _ in range(shape[0])] for name, shape in shapes.items()
        }
        self._states: dict[Path, tuple[int, ...]] = {}
        for slot in slots:
            for expert in slot.experts(shapes[slot.name]):
                self._slots[slot.name][expert].append(slot)
            file = source.file(slot.disk)
            if file not in self._states:
                self._states[file] = _state(file)

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that hold experts."""
        return tuple(self._states)

    def read(self, name: str, expert: int, target: Tensor | QuantisedTensor) -> int:
        """Fill `target` (1, O, I), rounding what is not held as it is stored; the bytes that were read."""
        source, slots = self._source, self._slots[name][expert]
        before = source.bytes_read
        for file in {source.file(slot.disk) for slot in slots}:
            if _state(file) != self._states[file]:
                raise CheckpointError(f"{file}: changed since the model was loaded; load it again")
        if isinstance(target, Tensor):
            self._fill(slots, target, name, expert)
        elif target.kept:
            self._codes(slots, target, name, expert)
        else:
            numbers = torch.empty(target.shape)
            self._fill(slots, numbers, name, expert)
            target.store(numbers)
        return source.bytes_read - before

    def expect(self, name: str, experts: Sequence[int]) -> None:
        """Have the system read their bytes ahead."""
        for expert in experts:
            for slot in self._slots[name][expert]:
                shape, held = self._shapes[name], self._held(name, expert)
                found = slot.block(torch.empty(1, *shape[1:], device="meta"), held)
                assert found is not None
                index = found[1]
                self._source.expect(slot.disk, lambda stored, slot=slot, at=index: slot.part(stored)[at])  # type: ignore[misc]

    def _held(self, name: str, expert: int, width: int | None = None) -> Held:
        shape = self._shapes[name]
        return Held((*shape[:-1], width or shape[-1]), (slice(expert, expert + 1),))

    def _fill(self, slots: Sequence[Slot], target: Tensor, name: str, expert: int) -> None:
        for slot in slots:
            read_slot(self._source, slot, target, self._held(name, expert))

    def _codes(self, slots: Sequence[Slot], target: QuantisedTensor, name: str, expert: int) -> None:
        shape = (1, *self._shapes[name][1:])
        codes = torch.empty(shape, dtype=torch.int8)
        scales = torch.empty_like(target.scales)
        for slot in slots:
            for stored, local in zip(self._source.codes(slot.disk), (codes, scales), strict=True):
                found = slot.block(local, self._held(name, expert, local.shape[-1]))
                assert found is not None
                found[0].copy_(slot.part(stored)[found[1]])
        target.store_codes(codes, scales)


def _state(file: Path) -> tuple[int, ...]:
    try:
        found = os.stat(file)
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read ({error.strerror})") from None
    return found.st_ino, found.st_size, found.st_mtime_ns


def expert_layers(model: Transformer) -> Iterator[tuple[int, str, RoutedExperts]]:
    """(index, name, experts) of every block with routed experts."""
    for index, block in enumerate(model.blocks):
        if isinstance(block.ffn, MoE):
            yield index, f"blocks.{index}.ffn.experts", block.ffn.experts


def expert_memory(
    made: Skeleton, place: ExpertPlace, where: Path, device: str | torch.device = "cpu"
) -> int | None:
    """Bytes of memory that experts on disk get; None where all of them belong in memory.

    Errors: `ConfigError` for `disk` and a model without experts, or on another device than the CPU;
    `CheckpointError` where nothing fits.
    """
    elsewhere = torch.device(device).type != "cpu"
    if place.where == "memory" or (elsewhere and place.where == "auto"):
        return None
    if elsewhere:
        raise ConfigError("experts: those on disk are read for the CPU; take --experts memory or the CPU")
    whole = expert_bytes(made)
    if not whole:
        if place.where == "disk":
            raise ConfigError(f"{where}: has no routed experts; leave out --experts disk")
        return None
    rest = weight_bytes(made.model, made.dtype, made.types) - whole
    limit = weight_memory() if place.memory is None else min(place.memory, weight_memory())
    if place.where == "auto" and place.room is None and rest + whole <= limit:
        return None
    forms = _forms(made)
    least = max(
        sum(form.nbytes for name, (form, _) in forms.items() if name.startswith(f"{layer}."))
        for _, layer, _ in expert_layers(made.model)
    )
    room = max(0, limit - rest) if place.room is None else place.room
    if room < least:
        what = "the memory leaves" if place.room is None else "--expert-memory gives"
        raise CheckpointError(
            f"{where}: {what} {room / 2**20:,.0f} MiB for experts, one of which takes "
            f"{least / 2**20:,.0f} MiB (all other weights {rest / 2**20:,.0f} MiB); give more, or use --quant"
        )
    return min(room, whole)


def expert_bytes(made: Skeleton) -> int:
    """Bytes of all routed experts, as they would be held in memory."""
    return sum(form.nbytes * count for form, count in _forms(made).values())


def leave_on_disk(made: Skeleton, source: TensorSource, room: int) -> Placement:
    """Give a model a store with `room` bytes for experts; the placement of all else.

    `source`: the store's own, which nothing else reads from.
    """
    reader, forms = expert_reader(made, source)
    store = put_on_disk(expert_layers(made.model), lambda name, _: forms[name][0], reader, room)
    made.model.store = store
    return replace(
        made.placement, slots=tuple(slot for slot in made.placement.slots if slot.name not in forms)
    )


def expert_reader(
    made: Skeleton, source: TensorSource
) -> tuple[ExpertFiles, dict[str, tuple[MatrixForm, int]]]:
    """What reads experts from `source`; and of each of their weights, by name, the form and the number."""
    forms = _forms(made)
    own = [slot for slot in made.placement.slots if slot.name in forms]
    shapes = {name: (count, *form.shape) for name, (form, count) in forms.items()}
    return ExpertFiles(source, own, shapes), forms


def read_busiest(store: ExpertStore, uses: Mapping[int, Sequence[int]]) -> None:
    """Read the experts that a profile counted most. Errors: `ConfigError` for another model's profile."""
    sizes = {index: layer.num_experts for index, layer in store.layers.items()}
    if {index: len(counts) for index, counts in uses.items()} != sizes:
        raise ConfigError(
            "experts: the profile is of a model with other layers or experts; make one of this model"
        )
    store.expect_uses(uses)


def _forms(made: Skeleton) -> dict[str, tuple[MatrixForm, int]]:
    """What each experts' weight is held in, and their number, by its name."""
    quantised = quantised_parts(made.model)
    found = {}
    for _, layer, experts in expert_layers(made.model):
        for part, linear in ((experts.first_name, experts.first), ("down", experts.down)):
            name, shape = f"{layer}.{part}.weight", (linear.out_features, linear.in_features)
            if name in quantised:
                codes = quantised[name]
                scales = torch.bfloat16 if codes.scales.dtype == torch.bfloat16 else torch.float32
                form = MatrixForm(shape, scales, codes.bits, codes.block, codes.kept)
            else:
                form = MatrixForm(shape, made.types.get(name, made.dtype))
            found[name] = form, linear.num_experts
    return found
