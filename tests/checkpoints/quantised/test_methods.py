"""Methods by name: those that are not read here are refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from coterie.checkpoints.quantised.settings import QuantSettings
from coterie.checkpoints.stored_tensors import StoredTensors
from coterie.config import CheckpointError


@pytest.mark.parametrize(
    ("quantisation", "message"),
    [({"quant_method": "hqq"}, "quantised as 'hqq'"), (None, "stored as F8_E4M3, but config.json")],
)
def test_other_quantisation_is_refused(
    quantisation: dict[str, Any] | None, message: str, tmp_path: Path
) -> None:
    save_file({"w": torch.zeros(4, 4).to(torch.float8_e4m3fn)}, tmp_path / "model.safetensors")
    given = None if quantisation is None else QuantSettings(quantisation, "")
    with pytest.raises(CheckpointError, match=message):
        StoredTensors([tmp_path / "model.safetensors"], given)
