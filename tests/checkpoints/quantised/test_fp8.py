"""Every published spelling of FP8 is read as the numbers it means."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from coterie.checkpoints.directory import load_model, save_model
from coterie.checkpoints.quantised.settings import QuantSettings
from coterie.checkpoints.stored_tensors import StoredTensors
from coterie.config import CheckpointError
from tests.checkpoints.quantised.packers import Pack, blocks_of, directory, fp8, mxfp8, quantised
from tests.checkpoints.quantised.reading import assert_reads
from tests.families.hf import tiny

E4M3 = torch.float8_e4m3fn


@pytest.mark.parametrize(
    ("pack", "config"),
    [
        (fp8(16, 24), {"weight_block_size": [16, 24]}),
        (fp8(128, 128), {}),
        (fp8(flat=True), {"weight_block_size": None, "activation_scheme": "static"}),
        (fp8(1, None, ".weight_scale"), {"quant_method": "fbgemm_fp8"}),
        (fp8(ending=".qscale_weight", flat=True), {"weight_block_size": None}),
        (fp8(16, 16, ".scale"), {"weight_block_size": [16, 16]}),
        (mxfp8(".weight_scale_inv"), {"weight_block_size": [1, 32], "scale_fmt": "ue8m0"}),
        (mxfp8(".weight_scale_inv", torch.float8_e8m0fnu), {"weight_block_size": [1, 32]}),
    ],
)
def test_every_spelling(pack: Pack, config: dict[str, Any], tmp_path: Path) -> None:
    assert_reads(tmp_path, directory(tmp_path, pack, {"quant_method": "fp8"} | config))


@pytest.mark.parametrize(("rows", "columns"), [(8, 8), (10, 12), (None, None)])
def test_experts_saved_as_transformers_holds_them(
    rows: int | None, columns: int | None, tmp_path: Path
) -> None:
    reference = tiny("qwen3_moe", mlp_only_layers=[], num_hidden_layers=1)
    reference.save_pretrained(tmp_path, save_original_format=False)
    generator = torch.Generator().manual_seed(1)
    stored: dict[str, Tensor] = {}
    meant: dict[str, Tensor] = {}
    for name, tensor in load_file(tmp_path / "model.safetensors").items():
        stored[name] = tensor
        if not name.endswith(("gate_up_proj", "down_proj")):
            continue
        height, width = tensor.shape[1:]
        blocks = (rows or height, columns or width)
        stored[name] = tensor.to(E4M3)
        scales = torch.rand(8, -(-height // blocks[0]), -(-width // blocks[1]), generator=generator)
        stored |= {f"{name}_scale_inv": scales, f"{name}_activation_scale": torch.ones(8)}
        stem = name.removesuffix("gate_up_proj").removesuffix("down_proj")
        for expert in range(8):
            whole = blocks_of(stored[name][expert], scales[expert], *blocks)
            kinds = ("gate_proj", "up_proj") if "gate" in name else ("down_proj",)
            for kind, matrix in zip(kinds, whole.chunk(len(kinds)), strict=True):
                meant[f"{stem}{expert}.{kind}.weight"] = matrix
    save_file(stored, tmp_path / "model.safetensors")
    quantised(tmp_path, {"quant_method": "fp8", "weight_block_size": list(blocks) if rows else None})
    assert_reads(tmp_path, meant)


def test_llama_4s_experts_have_a_scale_for_each_output(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(2)
    numbers = torch.randn(3, 4, 6, generator=generator).to(E4M3)
    scales = torch.rand(3, 6, generator=generator)
    for shape in ((3, 1, 6), (3, 6, 1)):
        save_file({"d": numbers, "d_scale": scales.view(shape)}, tmp_path / "model.safetensors")
        stored = StoredTensors(
            [tmp_path / "model.safetensors"], QuantSettings({"quant_method": "fbgemm_fp8"}, "")
        )
        assert torch.equal(stored.read("d"), numbers.float() * scales[:, None, :])


def test_a_deepseek_directory_in_fp8_is_read_and_saved_without_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tiny("deepseek_v3").save_pretrained(tmp_path / "a")
    tensors, expected = {}, {}
    for name, value in load_file(tmp_path / "a" / "model.safetensors").items():
        tensors[name] = expected[name] = value
        if name.endswith("_proj.weight") or "kv_a_proj" in name:
            tensors[name] = value.to(torch.float8_e4m3fn)
            shape = [-(-size // 16) for size in value.shape]
            tensors[name + "_scale_inv"] = torch.rand(shape) + 0.5
            expected[name] = blocks_of(tensors[name], tensors[name + "_scale_inv"], 16, 16)
    # Scales in another file than what they scale.
    scales = {name: tensors.pop(name) for name in list(tensors) if name.endswith("_scale_inv")}
    for file, part in (("model-1.safetensors", tensors), ("model-2.safetensors", scales)):
        save_file(part, tmp_path / "a" / file)
    (tmp_path / "a" / "model.safetensors").unlink()
    weight_map = dict.fromkeys(tensors, "model-1.safetensors") | dict.fromkeys(scales, "model-2.safetensors")
    (tmp_path / "a" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [16, 16]}
    (tmp_path / "a" / "config.json").write_text(json.dumps(config))

    model = load_model(tmp_path / "a").model
    assert "stored quantised" in caplog.text
    save_model(tmp_path / "b", model)
    after = load_file(tmp_path / "b" / "model.safetensors")
    assert after.keys() == expected.keys()
    assert all(torch.equal(after[name], expected[name]) for name in expected)
    assert "quantization_config" not in json.loads((tmp_path / "b" / "config.json").read_text())

    (tmp_path / "a" / "model-2.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="header claims"):
        load_model(tmp_path / "a")


BAD = [
    ({}, {"w_scale_inv": None}, "'w' is quantised and 'w_scale_inv' is missing"),
    ({}, {"w_scale": torch.ones(1, 1)}, "two scales, 'w_scale_inv' and 'w_scale'"),
    ({}, {"w_scale_inv": torch.ones(2, 2)}, r"has shape \(2, 2\); 'w' needs \(1, 1\) or \(4, 1\) or \(\)"),
    ({}, {"w_scale_inv": torch.ones(1, 1, dtype=torch.int32)}, "stored as I32"),
    ({}, {"w": torch.zeros(4).to(E4M3)}, "is not a matrix"),
    ({"weight_block_size": [0, 1]}, {}, "weight_block_size is"),
    ({"weight_block_size": 128}, {}, "weight_block_size is 128; two sizes"),
    ({"expert_dtype": "fp4"}, {}, "experts are stored as fp4"),
]


@pytest.mark.parametrize(("config", "change", "message"), BAD)
def test_what_does_not_fit_is_one_line(
    config: dict[str, Any], change: dict[str, Tensor | None], message: str, tmp_path: Path
) -> None:
    tensors: dict[str, Tensor | None] = {
        "w": torch.zeros(4, 4).to(E4M3),
        "w_scale_inv": torch.ones(1, 1),
    } | change
    save_file({n: t for n, t in tensors.items() if t is not None}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=message) as caught:
        StoredTensors([tmp_path / "model.safetensors"], QuantSettings({"quant_method": "fp8"} | config, ""))
    assert "\n" not in str(caught.value)
