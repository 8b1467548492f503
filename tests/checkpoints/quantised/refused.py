"""What every method's tests of bad input do: change a good file in one way, and read one line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from coterie.checkpoints.quantised.settings import QuantSettings
from coterie.checkpoints.stored_tensors import StoredTensors
from coterie.config import CheckpointError
from tests.checkpoints.quantised.packers import Pack


def assert_refused(
    path: Path, pack: Pack, config: Mapping[str, Any], change: Mapping[str, Tensor | None], message: str
) -> None:
    """A matrix `x` of 32 x 64, packed, is read; with parts changed or left out (None) it is one line."""
    parts, _ = pack(torch.Generator().manual_seed(0), 32, 64)
    tensors: dict[str, Tensor | None] = {**{f"x{ending}": part for ending, part in parts.items()}, **change}
    file = path / "model.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in tensors.items() if tensor is not None}, file)
    with pytest.raises(CheckpointError, match=message) as caught:
        StoredTensors([file], QuantSettings(config, "config.json")).read("x.weight")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
