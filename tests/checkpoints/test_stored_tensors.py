"""The tensors of several files as one source, plain and quantised."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from coterie.checkpoints.directory import load_model
from coterie.checkpoints.quantised.settings import QuantSettings
from coterie.checkpoints.stored_tensors import StoredTensors
from coterie.config import CheckpointError
from tests.checkpoints.quantised.packers import blocks_of
from tests.checkpoints.test_tensor_reader import GOOD, write
from tests.families.hf import tiny


def test_an_index_may_name_safetensors_alone(tmp_path: Path) -> None:
    tiny("llama").save_pretrained(tmp_path)
    (tmp_path / "weights.bin").write_bytes(b"\0" * 64)
    index = {"weight_map": {"model.norm.weight": "weights.bin"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"names 'weights\.bin'; only safetensors"):
        load_model(tmp_path)


def test_a_tensor_in_two_files_is_refused(tmp_path: Path) -> None:
    files = [write(tmp_path / f"{i}.safetensors", GOOD) for i in range(2)]
    with pytest.raises(CheckpointError, match=r"'a' is in 0\.safetensors too"):
        StoredTensors(files)


def test_reading_into_any_place_is_reading(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randn(3, 4, 6, generator=generator).to(torch.float8_e4m3fn)
    scales = torch.rand(3, 2, 3, generator=generator)
    plain = torch.randn(4, 6, generator=generator).to(torch.bfloat16)
    save_file({"e": numbers, "e_scale_inv": scales, "p": plain}, tmp_path / "model.safetensors")
    stored = StoredTensors(
        [tmp_path / "model.safetensors"],
        QuantSettings({"quant_method": "fp8", "weight_block_size": [2, 2]}, ""),
    )
    assert set(stored) == {"e", "p"} and stored.quantised and stored.shape("e") == (3, 4, 6)
    meant = torch.stack([blocks_of(numbers[e], scales[e], 2, 2) for e in range(3)])
    for name, tensor in (("e", meant), ("p", plain.float())):
        assert torch.equal(stored.read(name).float(), tensor)
        assert torch.equal(stored.read_part(name, 2).float(), tensor[2])
        for target in (torch.empty(tensor.shape), torch.empty(tensor.mT.shape).mT):
            stored.read_into(name, target)
            assert torch.equal(target, tensor)
        part = torch.empty_like(tensor[..., 1:3])
        stored.read_into(name, part, lambda whole: whole[..., 1:3])
        assert torch.equal(part, tensor[..., 1:3])
