"""The numbers of a GGUF file put back into their model: exactly for f32, and as far off as their type
says.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from coterie.checkpoints.checkpoint import Checkpoint
from coterie.checkpoints.directory import load_model
from coterie.config import CheckpointError
from coterie.gguf.export import export_gguf
from coterie.gguf.readback import gguf_difference, put_back
from tests.checkpoints.gguf_model.test_source import rounds
from tests.gguf.models import KINDS, exported, write


@pytest.mark.parametrize("kind", KINDS)
def test_every_number_finds_its_way_back(kind: str) -> None:
    """Also through turned rows, stacked experts, alternating gates and the split of latent attention."""
    directory, file = exported(kind)
    model = load_model(directory).model
    expected = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.data.fill_(torch.nan)
    put_back(model, Checkpoint.open(directory), file)
    for name, parameter in model.named_parameters():
        atol = 2**-22 if rounds(kind, name) else 0
        torch.testing.assert_close(parameter.detach(), expected[name], rtol=0, atol=atol)


def test_answers_by_type(tmp_path: Path) -> None:
    directory = write("qwen3_moe", tmp_path / "moe")
    found = {}
    for quant in ("f32", "bf16", "q8_0", "q4_0", "mxfp4"):
        file = tmp_path / f"{quant}.gguf"
        export_gguf(directory, file, quant)
        found[quant] = gguf_difference(directory, file).kl or 0.0
    assert found["f32"] == 0.0
    assert found["bf16"] > 0 and 0 < found["q8_0"] < found["mxfp4"] and found["q8_0"] < found["q4_0"]


def test_a_file_of_another_model(tmp_path: Path) -> None:
    directory = write("qwen3_moe", tmp_path / "moe")
    other = write("llama", tmp_path / "llama")
    export_gguf(other, tmp_path / "model.gguf", "f32")
    with pytest.raises(CheckpointError, match="was not written from"):
        gguf_difference(directory, tmp_path / "model.gguf")
