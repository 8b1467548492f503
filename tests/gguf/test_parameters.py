"""Parameters read one by one from disk are those of the loaded model, and no more is read than is asked
for.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from coterie.checkpoints.checkpoint import Checkpoint
from coterie.checkpoints.directory import load_model
from coterie.checkpoints.stored_tensors import StoredTensors
from coterie.gguf.parameters import ParameterSource
from coterie.llamacpp.layout import STORED_BUFFERS
from tests.gguf.models import KINDS, write


def to_fp8(directory: Path) -> None:
    """DeepSeek's form: matrices in eight bits with a scale for every 16 x 16 numbers."""
    state = load_file(directory / "model.safetensors")
    for name in [name for name in state if name.endswith("_proj.weight")]:
        shape = [-(-size // 16) for size in state[name].shape]
        state[f"{name}_scale_inv"] = (
            torch.rand(shape, generator=torch.Generator().manual_seed(len(name))) + 0.5
        )
        state[name] = state[name].to(torch.float8_e4m3fn)
    save_file(state, directory / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((directory / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8", "weight_block_size": [16, 16]}
    (directory / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("kind", [*KINDS, "fp8"])
def test_what_is_read_is_what_is_loaded(tmp_path: Path, kind: str) -> None:
    directory = write("deepseek_v3" if kind == "fp8" else kind, tmp_path / "m")
    if kind == "fp8":
        to_fp8(directory)
    source = ParameterSource(Checkpoint.open(directory))
    model = load_model(directory).model
    wanted = dict(model.named_parameters())
    wanted |= {name: buffer for name, buffer in model.named_buffers() if name.endswith(STORED_BUFFERS)}
    wanted |= {name: tensor for name, tensor in model.carried.items() if ".indexer." in name}
    assert source.shapes == {name: tuple(tensor.shape) for name, tensor in wanted.items()}
    for name, tensor in wanted.items():
        if tensor.dim() < 3:
            assert torch.equal(source.read(name), tensor), name
            continue
        assert torch.equal(torch.stack(list(source.experts(name))), tensor), name
        for rows in (slice(0, 5), slice(5, None), slice(1, None, 2)):
            assert torch.equal(torch.stack(list(source.experts(name, rows))), tensor[:, rows]), name


def test_half_of_an_expert_is_read_without_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = ParameterSource(Checkpoint.open(write("qwen3_moe", tmp_path / "m")))
    read: list[str] = []
    real = StoredTensors.read
    monkeypatch.setattr(StoredTensors, "read", lambda self, name: read.append(name) or real(self, name))
    next(source.experts("blocks.1.ffn.experts.gate_up.weight", slice(32, None)))
    assert read == ["model.layers.1.mlp.experts.0.up_proj.weight"]


def test_layers_that_predict_further_tokens_are_left_out_by_name(tmp_path: Path) -> None:
    directory = write("nemotron_h", tmp_path / "m")
    state = load_file(directory / "model.safetensors")
    state["mtp.layers.0.norm.weight"] = torch.ones(32)
    save_file(state, directory / "model.safetensors", metadata={"format": "pt"})
    source = ParameterSource(Checkpoint.open(directory))
    assert source.left_out == ["mtp.* (layers that predict further tokens)"]
    assert not any(name.startswith("mtp.") for name in source.shapes)
