"""Read and write whole checkpoint directories: Hugging Face files plus `coterie.json`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from coterie.checkpoints.checkpoint import Checkpoint, Loaded
from coterie.checkpoints.commit import MANIFEST, commit_directory, require_free
from coterie.checkpoints.fill import fill_model
from coterie.checkpoints.tensor_writer import as_dtype, write_model_files
from coterie.config import Precision
from coterie.nn.transformer import Transformer
from coterie.proof.records import default_sequences, record, rounded, save_probes
from coterie.text.tokenizer import Tokenizer


def load_model(
    path: str | Path | Checkpoint,
    dtype: str | torch.dtype = "float32",
    device: str | torch.device = "cpu",
    compute_dtype: torch.dtype | None = None,
    check: bool = False,
    precision: Precision | None = None,
) -> Loaded:
    """`Checkpoint.open(path).load(...)`."""
    return Checkpoint.open(path).load(dtype, device, compute_dtype, check, precision)


def load_state_into(model: Transformer, directory: Path) -> None:
    """Copy a directory's safetensors into an existing model of the same config; every tensor must match."""
    checkpoint = Checkpoint.open(directory)
    fill_model(checkpoint.tensors, model, checkpoint.path)


def save_model(
    path: str | Path,
    model: Transformer,
    tokenizer: Tokenizer | None = None,
    dtype: str | torch.dtype | None = None,
    extra: Mapping[str, Any] | None = None,
    generation: Mapping[str, Any] | None = None,
    probes: bool = False,
) -> None:
    """Write a complete checkpoint directory, committed by rename after its manifest is on disk.

    `extra`: further keys of the manifest. `generation`: the content of `generation_config.json`
    (`Checkpoint.generation`; default: the tokenizer's stop tokens). `probes`: record what the model answers
    to the default probes, weights rounded as they are stored, for `Checkpoint.load(check=True)`.
    Errors: `CheckpointError` when `path` holds something that is not a checkpoint, or cannot be written.
    """

    def write(target: Path) -> None:
        write_model_files(target, model, tokenizer, dtype, generation=generation)
        if probes:
            sequences = default_sequences(tokenizer, model.config.vocab_size, model.config.max_positions)
            with rounded(model, as_dtype(dtype) if dtype is not None else next(model.parameters()).dtype):
                save_probes(target, record(model, sequences, tokenizer))

    final = Path(path)
    require_free(final, replaces=(MANIFEST, "a checkpoint of coterie"))
    commit_directory(final, write, dict(extra or {}))
