"""What every method's tests ask of a directory: its tensors, and the model that they are."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from coterie.checkpoints.checkpoint import Checkpoint
from coterie.checkpoints.fill import fill_model
from coterie.checkpoints.stored_tensors import StoredTensors
from coterie.families.mapping import View
from coterie.nn.forward_context import ForwardContext
from coterie.nn.materialise import materialise
from coterie.nn.transformer import Transformer
from tests.families.hf import VOCAB


def logits(model: Transformer) -> Tensor:
    """What a model answers to 11 fixed tokens."""
    ids = torch.randint(0, VOCAB, (11,), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        return model.logits(model(ids, ForwardContext.packed([len(ids)])))


def assert_reads(path: Path, meant: dict[str, Tensor]) -> None:
    """Every tensor of the directory is what it means, bit for bit, and so is the model."""
    checkpoint = Checkpoint.open(path)
    found = checkpoint.tensors
    assert isinstance(found, StoredTensors) and found.quantised and meant.keys() <= set(found)
    for name, tensor in meant.items():
        assert found.shape(name) == tuple(tensor.shape) and found.dtype(name) == torch.float32
        assert torch.equal(found.read(name), tensor), name
    loaded = checkpoint.load(dtype="float32").model
    with torch.device("meta"):
        other = Transformer(checkpoint.config)
    materialise(other, torch.float32, "cpu")
    fill_model(Meant(found, meant), other, path)
    assert torch.equal(logits(loaded), logits(other))


class Meant(StoredTensors):
    """The tensors of a directory, with those that are known given instead of read."""

    def __init__(self, stored: StoredTensors, meant: dict[str, Tensor]) -> None:
        self.__dict__ |= stored.__dict__
        self.meant = meant

    def read(self, name: str) -> Tensor:
        return self.meant[name] if name in self.meant else super().read(name)

    def read_into(self, name: str, target: Tensor, part: View | None = None) -> None:
        tensor = self.read(name)
        target.copy_(tensor if part is None else part(tensor))
