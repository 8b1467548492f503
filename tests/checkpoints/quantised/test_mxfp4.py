"""MXFP4 as gpt-oss stores it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from coterie.checkpoints.directory import load_model, save_model
from coterie.checkpoints.quantised.settings import QuantSettings
from coterie.checkpoints.stored_tensors import StoredTensors
from coterie.config import CheckpointError
from tests.families.hf import tiny

MXFP4 = {"quant_method": "mxfp4"}


def read(directory: Path, blocks: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    save_file({"x_blocks": blocks, "x_scales": scales}, directory / "model.safetensors")
    return StoredTensors([directory / "model.safetensors"], QuantSettings(MXFP4, "")).read("x")


def test_by_hand(tmp_path: Path) -> None:
    blocks = torch.zeros(1, 1, 2, 16, dtype=torch.uint8)
    blocks[0, 0, 0, 0] = 0x21  # low half first: 1 -> 0.5, 2 -> 1.0
    blocks[0, 0, 0, 15] = 0xF7  # 7 -> 6.0, 15 -> -6.0
    blocks[0, 0, 1, 3] = 0x9A  # 10 -> -1.0, 9 -> -0.5
    scales = torch.tensor([[[128, 126]]], dtype=torch.uint8)  # times 2, times 1/2
    expected = torch.zeros(1, 1, 64)
    expected[0, 0, [0, 1, 30, 31]] = torch.tensor([1.0, 2.0, 12.0, -12.0])
    expected[0, 0, [38, 39]] = torch.tensor([-0.5, -0.25])
    assert torch.equal(read(tmp_path, blocks, scales).transpose(1, 2), expected)


def test_it_equals_transformers(tmp_path: Path) -> None:
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    generator = torch.Generator().manual_seed(0)
    blocks = torch.randint(0, 256, (3, 8, 2, 16), generator=generator, dtype=torch.uint8)
    scales = torch.randint(0, 255, (3, 8, 2), generator=generator, dtype=torch.uint8)
    theirs = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)  # (E, I, O)
    assert torch.equal(read(tmp_path, blocks, scales), theirs)


def test_a_gpt_oss_directory_in_mxfp4_is_read(tmp_path: Path) -> None:
    tiny("gpt_oss", hidden_size=64, intermediate_size=32).save_pretrained(tmp_path / "a")
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    generator = torch.Generator().manual_seed(0)
    tensors, expected = {}, {}
    for name, value in load_file(tmp_path / "a" / "model.safetensors").items():
        tensors[name] = expected[name] = value
        if name.endswith("experts.gate_up_proj") or name.endswith("experts.down_proj"):
            experts, inner, outer = value.shape
            del tensors[name]
            blocks = torch.randint(
                0, 256, (experts, outer, inner // 32, 16), generator=generator, dtype=torch.uint8
            )
            scales = torch.randint(
                118, 126, (experts, outer, inner // 32), generator=generator, dtype=torch.uint8
            )
            tensors |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
            expected[name] = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)
    save_file(tensors, tmp_path / "a" / "model.safetensors")
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    config["quantization_config"] = MXFP4
    (tmp_path / "a" / "config.json").write_text(json.dumps(config))
    save_model(tmp_path / "b", load_model(tmp_path / "a").model)
    after = load_file(tmp_path / "b" / "model.safetensors")
    assert all(torch.equal(after[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("blocks", "scales", "message"),
    [
        ((2, 4, 3, 16), (2, 4, 2), r"'x_scales' has shape \(2, 4, 2\); 'x' needs \(2, 4, 3\)"),
        ((2, 4, 3, 8), (2, 4, 3), r"'x_blocks' has shape \(2, 4, 3, 8\); blocks of 32"),
        ((2, 4, 3, 16), None, "'x' is quantised and 'x_scales' is missing"),
    ],
)
def test_what_does_not_fit_is_one_line(
    blocks: tuple[int, ...], scales: tuple[int, ...] | None, message: str, tmp_path: Path
) -> None:
    tensors = {"x_blocks": torch.zeros(blocks, dtype=torch.uint8)}
    tensors |= {} if scales is None else {"x_scales": torch.zeros(scales, dtype=torch.uint8)}
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=message) as caught:
        StoredTensors([tmp_path / "model.safetensors"], QuantSettings(MXFP4, ""))
    assert "\n" not in str(caught.value)
