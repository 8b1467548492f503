"""A tuned model on disk: the tensors of a run's checkpoints, the written result, and its proof."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from coterie.adapters.apply import apply_in_place
from coterie.adapters.files import save_adapter
from coterie.adapters.patch import save_patch
from coterie.adapters.trainable import Tuned
from coterie.checkpoints.checkpoint import Checkpoint
from coterie.checkpoints.directory import load_model, save_model
from coterie.checkpoints.tensor_reader import read_tensors
from coterie.config import CheckpointError
from coterie.nn.transformer import Transformer
from coterie.proof.judge import judge
from coterie.proof.records import ProbeRecord
from coterie.results.tuning import TuningProof

TRAINABLE = "trainable.safetensors"


def trainable_tensors(model: Transformer) -> dict[str, Tensor]:
    """Everything that training changes in the model's files: trainable parameters and selection biases."""
    tensors = {
        name: parameter.detach() for name, parameter in model.named_parameters() if parameter.requires_grad
    }
    for layer, router in model.routers():
        if router.select_bias is not None:
            tensors[f"blocks.{layer}.ffn.router.select_bias"] = router.select_bias
    return tensors


def write_trainable(directory: Path, model: Transformer) -> None:
    """Write the model's part of a run's checkpoint: only what is trained."""
    save_file({n: t.cpu().contiguous() for n, t in trainable_tensors(model).items()}, directory / TRAINABLE)


@torch.no_grad()
def read_trainable(directory: Path, model: Transformer) -> None:
    """Read back what `write_trainable` wrote. Errors: `CheckpointError` for the checkpoint of another run."""
    stored, own = read_tensors(directory / TRAINABLE), trainable_tensors(model)
    if stored.keys() != own.keys() or any(stored[name].shape != own[name].shape for name in own):
        raise CheckpointError(
            f"{directory}: was written by a run that trained other tensors; choose another 'out'"
        )
    for name, tensor in own.items():
        tensor.copy_(stored[name])


def save_result(tuned: Tuned, path: Path, about: Mapping[str, Any]) -> None:
    """Write the adapter, patch or model of a finished run. `about`: further keys of the manifest."""
    if tuned.kind == "adapter":
        save_adapter(path, tuned.model, tuned.base, tuned.tokenizer, extra=about)
    elif tuned.kind == "patch":
        save_patch(path, tuned.model, tuned.origin, tuned.tokenizer, about)
    else:
        manifest = {"recipe": "tune", "parent": tuned.origin, **about}
        generation = Checkpoint.open(tuned.base).generation
        save_model(path, tuned.model, tuned.tokenizer, extra=manifest, generation=generation)


def load_result(tuned: Tuned, path: Path) -> Transformer:
    """Load the result as a user would: the base with the result applied to it, or the result itself."""
    dtype = tuned.model.compute_dtype
    parameters = next(tuned.model.parameters()).dtype
    if tuned.kind == "model":
        return load_model(path, parameters, compute_dtype=dtype).model
    adapter = tuned.model.adapter
    precision = None if adapter is None else adapter.precision
    base = load_model(tuned.base, parameters, compute_dtype=dtype, precision=precision)
    apply_in_place(base.model, path, base.checkpoint)
    return base.model


def prove(base: ProbeRecord, tuned: ProbeRecord, reloaded: ProbeRecord, path: Path) -> TuningProof:
    """Compare the written result's answers with those of the tuned model and of its base.

    Errors: `CheckpointError` when training changed nothing, or the files are not the tuned model.
    """
    found = judge(base, tuned, reloaded)
    if found.ruling == "unchanged":
        raise CheckpointError(
            f"{path}: the tuned model answers exactly as its base, so nothing was learnt; use more steps or "
            "a larger lr"
        )
    if not found.faithful:
        raise CheckpointError(f"{path}: read back, it {found.reason}; do not use the result")
    return TuningProof(
        gravity=found.gravity,
        moved_mean=found.moved.mean_logprob,
        reloaded_mean=found.lost.mean_logprob,
        reloaded_max=found.lost.max_logprob,
    )
