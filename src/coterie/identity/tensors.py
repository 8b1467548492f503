"""The weight tree of a model in memory, and of a checkpoint's files without building the model.

Both give the same tree for a model that runs the released numbers, in whatever type it holds them: a leaf is
the tensor in the form that the files have, so bfloat16 weights that run as float32 are turned back. What
cannot be turned back exactly is another leaf, and so another model. A tensor in codes (int4, fp8, blocks of a
GGUF file) counts as the float32 numbers that its codes stand for, under the type `CODED`.

One tensor is in memory in addition to the model, or one expert's matrix where a tensor holds all experts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from coterie.checkpoints.checkpoint import Checkpoint
from coterie.checkpoints.tensor_reader import TYPE_NAMES
from coterie.checkpoints.tensor_writer import bytes_of
from coterie.identity.held import HeldWeights
from coterie.identity.pieces import LeafPiece, layer_of, pieces
from coterie.identity.tree import MODEL, TensorLeaf, TreePart, WeightTree
from coterie.nn.transformer import Transformer

CODED = "CODED"
FURTHER = "coterie:"  # names of leaves that the family's layout does not have
_BITS = {torch.float64: (52, 11), torch.float32: (23, 8), torch.bfloat16: (7, 8), torch.float16: (10, 5)}


def weight_tree(model: Transformer, checkpoint: Checkpoint | None = None) -> WeightTree:
    """The tree of the tensors that a model holds now.

    `checkpoint`: what it was read from, which says the form that its weights have in files (default: the
    form in which the model holds them). Factors of an adapter and what else the family does not store are
    leaves too, named after `FURTHER`. Experts on disk are read from their files.
    """
    held = HeldWeights(model)
    forms = _Forms(checkpoint)
    leaves = [
        forms.leaf(piece, held.piece(piece), held.in_codes(piece)) for piece in pieces(model, held.shape)
    ]
    for name, tensor in model.carried.items():
        leaves.append(_leaf(name, TreePart(MODEL), tensor, TYPE_NAMES[tensor.dtype]))
    for name, expert, content in held.further():
        part = TreePart(layer_of(name), -1 if expert is None else expert)
        label = name if expert is None else f"{name}[{expert}]"
        if isinstance(content, Tensor):
            leaves.append(_leaf(f"{FURTHER}{label}", part, content, TYPE_NAMES[content.dtype]))
        else:
            leaves.append(TensorLeaf(f"{FURTHER}{label}", part, "JSON", (), _sha256(content)))
    return WeightTree.of(leaves, forms.notes())


def stored_weight_tree(path: str | Path | Checkpoint) -> WeightTree:
    """The tree of a checkpoint's files: that of its model in memory, without building the model.

    Errors: `CheckpointError` for a directory that is not a whole checkpoint.
    """
    checkpoint = Checkpoint.open(path)
    made = checkpoint.skeleton(torch.float32, None, None)
    source, forms = checkpoint.tensors, _Forms(checkpoint)
    leaves = []
    for piece in pieces(made.model, HeldWeights(made.model).shape):
        stored = torch.empty(piece.own_shape, dtype=source.dtype(piece.disk))
        source.read_into(piece.disk, stored, _taken(piece.expert))
        leaves.append(forms.leaf(piece, stored, False))
    for name in made.placement.carried:
        tensor = source.read(name)
        leaves.append(_leaf(name, TreePart(MODEL), tensor, TYPE_NAMES[tensor.dtype]))
    source.release()
    return WeightTree.of(leaves)


def _taken(expert: int | None) -> Callable[[Tensor], Tensor] | None:
    return None if expert is None else lambda tensor: tensor[expert]


class _Forms:
    """The form that each tensor has in files, and what of it memory no longer holds."""

    def __init__(self, checkpoint: Checkpoint | None) -> None:
        self._source = None if checkpoint is None else checkpoint.tensors
        self._rounded: set[str] = set()

    def leaf(self, piece: LeafPiece, tensor: Tensor, in_codes: bool) -> TensorLeaf:
        """The leaf of a tensor that is held as `tensor`, in the layout of the file."""
        source = self._source if self._source is not None and piece.disk in self._source else None
        coded = source is not None and source.form(piece.disk) is not None
        tensor = tensor.detach().to("cpu")
        if coded or in_codes:
            if in_codes and not coded and source is not None:
                self._rounded.add(f"weights stored as {TYPE_NAMES[source.dtype(piece.disk)]} are in codes")
            elif tensor.dtype != torch.float32:
                kind = TYPE_NAMES[tensor.dtype]
                self._rounded.add(f"weights stored in codes are held as {kind}")
            # A code of zero gives -0.0 under a negative scale, and 0.0 where another form holds the number.
            return _leaf(piece.name, piece.part, tensor.float() + 0.0, CODED)
        stored = tensor.dtype if source is None else source.dtype(piece.disk)
        if stored != tensor.dtype:
            if not _holds(tensor.dtype, stored):
                says = f"weights stored as {TYPE_NAMES[stored]} are held as {TYPE_NAMES[tensor.dtype]}"
                self._rounded.add(says)
            back = tensor.to(stored)
            tensor = back if _same_bits(back.to(tensor.dtype), tensor) else tensor
        return _leaf(piece.name, piece.part, tensor, TYPE_NAMES[tensor.dtype])

    def notes(self) -> list[str]:
        """One line for each kind of tensor whose numbers were rounded."""
        return [f"{line}: the digest is of the rounded numbers" for line in sorted(self._rounded)]


def _holds(dtype: torch.dtype, other: torch.dtype) -> bool:
    """Whether `dtype` has every number of `other`."""
    return all(own >= needed for own, needed in zip(_BITS[dtype], _BITS[other], strict=True))


def _same_bits(a: Tensor, b: Tensor) -> bool:
    kinds = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    kind = kinds[a.element_size()]
    return torch.equal(a.contiguous().view(kind), b.contiguous().view(kind))


def _leaf(name: str, part: TreePart, tensor: Tensor, dtype: str) -> TensorLeaf:
    return TensorLeaf(name, part, dtype, tuple(tensor.shape), _sha256(bytes_of(tensor.detach().to("cpu"))))


def _sha256(content: bytes | memoryview) -> str:
    return hashlib.sha256(content).hexdigest()
