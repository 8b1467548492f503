"""Where a directory says how its weights are quantised, and that this does not travel to other weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from coterie.checkpoints.checkpoint import Checkpoint
from coterie.checkpoints.convert import convert_directory
from coterie.checkpoints.inspect import inspect_model
from coterie.checkpoints.quantised.settings import stated
from coterie.checkpoints.tensor_reader import FileBytes
from coterie.config import CheckpointError
from tests.checkpoints.quantised.packers import Pack, awq, directory, fp4, fp8, gptq, packed
from tests.checkpoints.quantised.reading import assert_reads

GROUP = {"targets": ["Linear"], "weights": {"num_bits": 4, "strategy": "group", "group_size": 32}}


def moved(path: Path, name: str, content: dict[str, Any]) -> None:
    """Take the description out of config.json, and give it in a file of its own."""
    data = json.loads((path / "config.json").read_text())
    del data["quantization_config"]
    (path / "config.json").write_text(json.dumps(data))
    (path / name).write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("pack", "name", "content"),
    [
        (gptq(), "quantize_config.json", {"bits": 4, "group_size": 16, "desc_act": False}),
        (awq(), "quant_config.json", {"w_bit": 4, "q_group_size": 16, "version": "GEMM"}),
        (
            fp4("nvfp4", ".weight", ".weight_scale_2"),
            "hf_quant_config.json",
            {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "NVFP4", "group_size": 16}},
        ),
    ],
)
def test_a_file_next_to_the_config_says_it_and_does_not_travel(
    pack: Pack, name: str, content: dict[str, Any], tmp_path: Path
) -> None:
    meant = directory(tmp_path / "a", pack, {})
    moved(tmp_path / "a", name, content)
    assert_reads(tmp_path / "a", meant)
    convert_directory(tmp_path / "a", tmp_path / "b", dtype="float32")
    assert not (tmp_path / "b" / name).exists() and not Checkpoint.open(tmp_path / "b").quantised
    written = load_file(tmp_path / "b" / "model.safetensors")
    assert written.keys() == meant.keys() and all(torch.equal(written[key], meant[key]) for key in meant)


@pytest.mark.parametrize("key", ["compression_config", "text_config"])
def test_other_places_in_the_config(key: str, tmp_path: Path) -> None:
    given = {"config_groups": {"group_0": GROUP}, "format": "pack-quantized"}
    inner = {"quantization_config": {"quant_method": "compressed-tensors"} | given}
    content = inner if key == "text_config" else given
    found = stated(tmp_path, {key: content})
    assert found is not None and found.word("quant_method") == "compressed-tensors"
    if key != "text_config":
        meant = directory(tmp_path, packed(), {})
        data = json.loads((tmp_path / "config.json").read_text())
        del data["quantization_config"]
        (tmp_path / "config.json").write_text(json.dumps(data | {key: given}))
        assert_reads(tmp_path, meant)


def test_a_description_that_is_no_object_is_one_line(tmp_path: Path) -> None:
    for key in ("quantization_config", "compression_config"):
        with pytest.raises(CheckpointError, match=f"{key} is 3; an object is expected"):
            stated(tmp_path, {key: 3})
    assert stated(tmp_path, {}) is None


def test_biases_of_zeros_that_the_family_lacks_are_left_out(tmp_path: Path) -> None:
    directory(tmp_path, gptq(), {"quant_method": "gptq", "bits": 4, "group_size": 16})
    file = tmp_path / "model.safetensors"
    stem = "model.layers.0.self_attn.o_proj"
    for bias in (torch.zeros(32), torch.ones(32)):
        save_file(load_file(file) | {f"{stem}.bias": bias}, file)
        if not bias.any():
            assert f"{stem}.bias" in Checkpoint.open(tmp_path).load().ignored
    with pytest.raises(CheckpointError, match=f"unexpected tensor '{stem}.bias'"):
        Checkpoint.open(tmp_path).load()


def test_inspecting_tells_forms_and_effective_bits_without_reading_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = "group_0", "group_1"
    targets = {"targets": ["re:.*self_attn.*"], "weights": {"num_bits": 8, "type": "float"}}
    groups = dict(zip(pair, (GROUP, targets), strict=True))
    settings = {"quant_method": "compressed-tensors", "format": "mixed-precision", "config_groups": groups}
    directory(tmp_path, packed(), settings, attention=fp8(16, 16, ".weight_scale"))
    data = json.loads((tmp_path / "config.json").read_text())
    block = {"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [16, 16]}
    data["quantization_config"]["config_groups"]["group_1"]["weights"] = block
    (tmp_path / "config.json").write_text(json.dumps(data))
    read: list[int] = []
    fill = FileBytes.fill
    monkeypatch.setattr(
        FileBytes, "fill", lambda *args: read.append(args[3].numel() * args[3].itemsize) or fill(*args)
    )
    found = inspect_model(str(tmp_path))
    assert max(read) == 16  # the shapes that compressed-tensors stores
    assert found.directory is not None and found.directory.quantised == "compressed-tensors"
    # 4 bits, and a scale of 16 bits for 32 of them
    words = "compressed-tensors, 4 bits in groups of 32: 6 tensors, 4.50 bits a number"
    assert any(words in line for line in found.oddities)
    assert any("fp8, a scale per 16 x 16: 4 tensors, 8.12 bits a number" in line for line in found.oddities)
    forms = found.to_dict()["stored"]["forms"]
    assert [form["tensors"] for form in forms] == [6, 4] and forms[0]["bits"] == 4.5
