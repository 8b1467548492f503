"""The numbers of a model's weights, whatever holds them: parameters, codes, trained slices, files.

E experts, O output and I input features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from coterie.evidence.canonical import canonical
from coterie.families import Slot, family
from coterie.families.mapping import Held
from coterie.identity.pieces import LeafPiece
from coterie.nn.chosen_experts import SubsetExpertLinear
from coterie.nn.lora import LoRAExpertLinear, LowRank
from coterie.nn.quantised_tensor import QuantisedTensor
from coterie.nn.stored_experts import StoredExpertLinear
from coterie.nn.transformer import Transformer


class HeldWeights:
    """Reads the tensors of a model as its files would hold them, one at a time."""

    def __init__(self, model: Transformer) -> None:
        self._model = model
        self._own: dict[str, Tensor] = dict(model.named_parameters()) | dict(model.named_buffers())
        self._codes: dict[str, QuantisedTensor] = {}
        self._slices: dict[str, tuple[dict[int, int], Tensor]] = {}
        self._stored: dict[str, StoredExpertLinear] = {}
        for name, module in model.named_modules():
            if isinstance(module, QuantisedTensor):
                self._codes[f"{name.removesuffix('.quantised')}.weight"] = module
            elif isinstance(module, StoredExpertLinear):
                self._stored[f"{name}.weight"] = module
            elif isinstance(module, SubsetExpertLinear):
                self._slices[f"{name}.weight"] = module.slots, module.subset_weight
                if module.subset_bias is not None:
                    self._slices[f"{name}.bias"] = module.slots, module.subset_bias

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of one of our parameters."""
        if name in self._codes:
            return self._codes[name].shape
        if name in self._stored:
            layer = self._stored[name]
            return layer.num_experts, layer.out_features, layer.in_features
        return tuple(self._own[name].shape)

    def in_codes(self, piece: LeafPiece) -> bool:
        """Whether the numbers of a tensor are held in codes."""
        name = piece.slots[0].name
        return name in self._codes or (name in self._stored and self._stored[name].form.bits is not None)

    def piece(self, piece: LeafPiece) -> Tensor:
        """A tensor in the layout of the file; codes are widened to float32."""
        if piece.expert is not None:
            return self._slot(piece.slots[0], piece.expert)[0]
        if len(piece.slots) == 1 and piece.slots[0].within is None:
            return self._slot(piece.slots[0])
        parts = [(slot, self._slot(slot)) for slot in piece.slots]
        result = torch.empty(piece.shape, dtype=parts[0][1].dtype)
        for slot, numbers in parts:
            slot.part(result).copy_(numbers)
        return result

    def _slot(self, slot: Slot, expert: int | None = None) -> Tensor:
        """What a slot is on disk; with `expert`, of a tensor of all experts, this one alone: (1, ...)."""
        if slot.name in self._own and slot.name not in self._slices:
            found = slot.view(self._own[slot.name])
            return found if expert is None else found[expert : expert + 1]
        shape = self.shape(slot.name)
        if expert is None and slot.name in self._codes and len(shape) == 2:
            return slot.view(self._codes[slot.name].dequantise())
        experts = slot.experts(shape) if expert is None else range(expert, expert + 1)
        blocks = []
        for one in experts:
            found_block = slot.block(self._expert(slot.name, one), Held(shape, (slice(one, one + 1),)))
            assert found_block is not None
            blocks.append(found_block[0])
        return blocks[0] if len(blocks) == 1 else torch.cat(blocks)

    def _expert(self, name: str, expert: int) -> Tensor:
        """(1, ...): one expert's numbers of a parameter."""
        if name in self._slices:
            slots, trained = self._slices[name]
            return trained[slots[expert]][None] if expert in slots else self._own[name][expert][None]
        if name in self._codes:
            return self._codes[name].part(expert).dequantise()
        layer = self._stored[name]
        assert layer.layer is not None
        target = layer.form.make(1)
        with layer.layer.store as store:
            store.reader.read(name, expert, target)
        return target if isinstance(target, Tensor) else target.dequantise()

    def further(self) -> Iterator[tuple[str, int | None, Tensor | bytes]]:
        """What the family's layout does not hold: (our name, expert, content), of adapters and rounded heads.

        The content is a tensor, or the settings of factors as canonical JSON.
        """
        config = self._model.config
        covered = {slot.name for slot in family(config.family).slots(config)}
        for name, codes in self._codes.items():
            if name not in covered:
                yield name, None, codes.dequantise() + 0.0
        for prefix, module in self._model.named_modules():
            chosen: Sequence[int] | None = None
            if isinstance(module, LowRank):
                settings = {"rank": module.rank, "alpha": module.alpha}
                yield f"{prefix}.lora", None, canonical(settings)
                chosen = module.chosen if isinstance(module, LoRAExpertLinear) else None
            for own, parameter in module.named_parameters(recurse=False):
                name = f"{prefix}.{own}" if prefix else own
                if name in covered or own in ("subset_weight", "subset_bias"):
                    continue
                if chosen is None or not own.startswith("lora_"):
                    yield name, None, parameter
                    continue
                for place, expert in enumerate(chosen):
                    yield name, expert, parameter[place]
