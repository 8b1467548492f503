"""Files of a checkpoint that only training needs: `train/optimizer.safetensors` and `train/state.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from coterie.checkpoints.tensor_reader import read_tensors
from coterie.config.errors import CheckpointError
from coterie.config.files import read_json
from coterie.config.json_text import JsonLimits

FOLDER = "train"


@dataclass
class TrainState:
    """The state of a run between two steps.

    `progress`: JSON types (step, tokens, next_sample, seed, threads, ...). `tensors`: flat names to tensors
    (optimiser state, random state, router statistics). `callbacks`: one JSON object per stateful callback, by
    its name.
    """

    progress: dict[str, Any]
    tensors: dict[str, Tensor]
    callbacks: dict[str, Any] = field(default_factory=dict)


def write_train_state(directory: Path, state: TrainState) -> None:
    """Write the two files below `directory/train` (the commit of the whole directory makes them atomic)."""
    folder = Path(directory) / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.tensors.items()}
    save_file(tensors, folder / "optimizer.safetensors")
    content = {"progress": state.progress, "callbacks": state.callbacks}
    (folder / "state.json").write_text(
        json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8"
    )


def read_train_state(directory: Path) -> TrainState:
    """Read the files of `write_train_state`, tensors on the CPU.

    Errors: `CheckpointError` naming the file; a released checkpoint has no `train` folder and cannot be
    resumed.
    """
    folder = Path(directory) / FOLDER
    if not folder.is_dir():
        raise CheckpointError(
            f"{directory}: has no '{FOLDER}' folder, so training cannot continue from it; start a new run"
        )
    content = read_json(folder / "state.json", error=CheckpointError, limits=JsonLimits())
    progress, callbacks = content.get("progress"), content.get("callbacks")
    if not (isinstance(progress, dict) and isinstance(callbacks, dict)):
        raise CheckpointError(
            f"{folder / 'state.json'}: lacks 'progress' or 'callbacks'; use another checkpoint"
        )
    tensors = read_tensors(folder / "optimizer.safetensors")
    return TrainState(progress, tensors, callbacks)


def state_bytes(tensors: Mapping[str, Tensor]) -> int:
    """Bytes of the tensors on disk, without the small header."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
