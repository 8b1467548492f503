"""Put the numbers of a GGUF file back into the model they came from, and compare answers on the probes.

The way back needs no second table: the slots that wrote the file say where its numbers belong.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from coterie.checkpoints.checkpoint import Checkpoint
from coterie.checkpoints.gguf_file.tensors import GgufTensors
from coterie.config import CheckpointError
from coterie.gguf.parameters import ParameterSource
from coterie.llamacpp.key_tables import Parts, config_values
from coterie.llamacpp.kinds import keys_by_kind
from coterie.llamacpp.layout import gguf_slots
from coterie.llamacpp.targets import Target, keys_of, target_of
from coterie.nn.transformer import Transformer
from coterie.proof.difference import Difference, difference
from coterie.proof.records import default_sequences, record


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
    source = ParameterSource(checkpoint)
    stored = GgufTensors.open(file)
    target = target_of(source.config)
    _check_keys(stored.keys, file, target, source)
    own = dict(model.named_parameters()) | dict(model.named_buffers()) | model.carried
    filled: set[str] = set()
    for slot in gguf_slots(source.config, target, source.shapes, frozenset(stored)):
        if slot.stored == "output.weight" and slot.name in filled:
            continue  # the embedding a second time, as the head
        if slot.stored not in stored or not slot.fits(stored.shape(slot.stored)):
            raise CheckpointError(
                f"{file}: lacks the tensor '{slot.stored}'; it was not written from {checkpoint.path}"
            )
        slot.read_into(stored, own[slot.name])
        filled.add(slot.name)


def _check_keys(keys: dict[str, Any], file: Path, target: Target, source: ParameterSource) -> None:
    """Every value that the file states of the config must be that of the checkpoint."""
    prefix = f"{target.name}."
    parts, directory = Parts.of(source.config), source.checkpoint.path
    try:
        found = {name.removeprefix(prefix): value for name, value in keys.items() if name.startswith(prefix)}
        values = config_values(keys_of(target, source.config), found)
    except (ValueError, LookupError, TypeError) as error:
        raise CheckpointError(f"{file}: one of its keys has an unusable value ({error!r:.120})") from None
    pairs = [(place, value, parts.value(place)) for place, value in values.items()]
    if target.by_kind:
        pairs += [(name, found.get(name), wanted) for name, wanted in keys_by_kind(source.config).items()]
    for place, value, wanted in pairs:
        # The file holds floats in 32 bits.
        real = isinstance(wanted, float) and isinstance(value, float)
        same = np.float32(value) == np.float32(wanted) if real else value == wanted
        if not same:
            raise CheckpointError(
                f"{file}: states {place} {value}, its config {wanted}; it was not written from {directory}"
            )
