"""Put the numbers of a GGUF file back into the model they came from, and compare answers on the probes.

The way back needs no second table. The mapping that wrote the file runs once more on the positions of the
numbers instead of the numbers; the result says where in a parameter each number of the file belongs.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from coterie.checkpoints.checkpoint import Checkpoint
from coterie.config import CheckpointError
from coterie.gguf.blocks import unpack
from coterie.gguf.opened import open_gguf
from coterie.gguf.parameters import ParameterSource
from coterie.gguf.targets import TARGETS, Parts, Target, config_values, keys_of
from coterie.gguf.tensors import Mapped, map_tensors
from coterie.nn.transformer import Transformer
from coterie.proof.difference import Difference, difference
from coterie.proof.records import default_sequences, record

_DIGIT = 1 << 24  # positions are given in two digits, each of which float32 holds exactly


class _Positions(ParameterSource):
    """A source whose parameters hold one digit of each number's own position in its parameter."""

    def __init__(self, checkpoint: Checkpoint, high: bool) -> None:
        super().__init__(checkpoint)
        self._high = high

    def read(self, name: str) -> Tensor:
        """The digits of a whole parameter, in its shape."""
        count = int(np.prod(self.shapes[name]))
        return self._digits(0, count).reshape(self.shapes[name])

    def experts(self, name: str, rows: slice = slice(None)) -> Iterator[Tensor]:
        """The digits of some rows, expert by expert."""
        count, *shape = self.shapes[name]
        size = int(np.prod(shape))
        for expert in range(count):
            yield self._digits(expert * size, size).reshape(shape)[rows]

    def _digits(self, start: int, count: int) -> Tensor:
        positions = torch.arange(start, start + count)
        return (positions // _DIGIT if self._high else positions % _DIGIT).float()


def gguf_difference(source: str | Path | Checkpoint, file: Path) -> Difference:
    """Difference of the answers with a file's numbers from those of its checkpoint, both in float32.

    It does not include what llama.cpp computes differently. Errors: `CheckpointError` when the file was not
    written from the checkpoint.
    """
    checkpoint = Checkpoint.open(source)
    model, tokenizer = checkpoint.load().model, checkpoint.tokenizer
    sequences = default_sequences(tokenizer, model.config.vocab_size, model.config.max_positions)
    before = record(model, sequences, tokenizer)
    put_back(model, checkpoint, file)
    return difference(before, record(model, sequences, tokenizer))


@torch.no_grad()
def put_back(model: Transformer, checkpoint: Checkpoint, file: Path) -> None:
    """Give the model of `checkpoint` the numbers of a GGUF file that was written from it.

    Errors: `CheckpointError` for a file of another config or with other tensors.
    """
    sources = _Positions(checkpoint, high=True), _Positions(checkpoint, high=False)
    reader = open_gguf(file)
    target = TARGETS[sources[0].config.family]
    _check_keys(reader, file, target, sources[0])
    stored = {tensor.name: tensor for tensor in reader.tensors}
    own = dict(model.named_parameters()) | dict(model.named_buffers())
    filled: set[str] = set()
    for high, low in zip(*(map_tensors(source, target) for source in sources), strict=True):
        whole = high.name in ("token_embd.weight", "output.weight")
        if high.origin not in own or (whole and high.origin in filled):
            continue  # factors of rope, or the embedding a second time as the head
        tensor = stored.get(high.name)
        if tensor is None or tuple(reversed(tensor.shape.tolist())) != high.shape:
            raise CheckpointError(
                f"{file}: lacks the tensor '{high.name}'; it was not written from {checkpoint.path}"
            )
        packed = tensor.data.reshape(-1, tensor.data.shape[-1])
        _scatter(own[high.origin], high, low, packed, tensor.tensor_type.name)
        filled.add(high.origin)


def _check_keys(reader: Any, file: Path, target: Target, source: ParameterSource) -> None:
    """Every value that the file states of the config must be that of the checkpoint."""
    prefix = f"{target.name}."
    parts, directory = Parts.of(source.config), source.checkpoint.path
    try:
        found = {
            name.removeprefix(prefix): field.contents()
            for name, field in reader.fields.items()
            if name.startswith(prefix)
        }
        values = config_values(keys_of(target, source.config), found)
    except (ValueError, LookupError, TypeError) as error:
        raise CheckpointError(f"{file}: one of its keys has an unusable value ({error!r:.120})") from None
    for place, value in values.items():
        wanted = parts.value(place)
        # The file holds floats in 32 bits.
        real = isinstance(wanted, float) and isinstance(value, float)
        same = np.float32(value) == np.float32(wanted) if real else value == wanted
        if not same:
            raise CheckpointError(
                f"{file}: states {place} {value}, its config {wanted}; it was not written from {directory}"
            )


def _scatter(parameter: Tensor, high: Mapped, low: Mapped, packed: np.ndarray, kind: str) -> None:
    """Write rows of the file to the positions that the two digits name."""
    flat, at = parameter.data.flatten(), 0
    for high_RI, low_RI in zip(high.rows(), low.rows(), strict=True):
        rows = unpack(np.ascontiguousarray(packed[at : at + len(high_RI)]), kind)
        at += len(high_RI)
        positions = torch.from_numpy(high_RI.astype(np.int64) * _DIGIT + low_RI.astype(np.int64))
        flat[positions.flatten().to(flat.device)] = torch.tensor(rows).flatten().to(flat)
    parameter.data.copy_(flat.view(parameter.shape))
