"""Headers that lie, files under other names, and numbers stored in eight and four bits."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from coterie.checkpoints.directory import load_model, save_model
from coterie.checkpoints.published_quants import fp8_blocks, mxfp4
from coterie.checkpoints.tensor_reader import StoredTensors, read_header
from coterie.config import CheckpointError
from tests.families.hf import tiny

GOOD = {
    "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "b": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]},
}


def write(path: Path, header: Any, data: bytes = b"\0" * 32, length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def changed(name: str, **fields: Any) -> dict[str, Any]:
    return GOOD | {name: GOOD[name] | fields}


def test_a_whole_header_is_read_in_the_order_of_its_bytes(tmp_path: Path) -> None:
    entries = read_header(
        write(tmp_path / "x.safetensors", {"__metadata__": {"format": "pt"}, "b": GOOD["b"], "a": GOOD["a"]})
    )
    assert list(entries) == ["a", "b"] and entries["a"].shape == (2, 3) and entries["b"].dtype == "BF16"
    assert entries["b"].end - entries["a"].start == 32


@pytest.mark.parametrize(
    ("header", "options", "message"),
    [
        (GOOD, {"length": 2**63}, "header claims"),
        (GOOD, {"length": 10_000}, "header claims"),
        (GOOD, {"length": 1}, "header claims"),
        (GOOD, {"data": b"\0" * 31}, "tensors end at byte"),
        (GOOD, {"data": b"\0" * 40}, "tensors end at byte"),
        (b"{nonsense", {}, "not valid JSON"),
        (b"[" * 5000, {}, "nested deeper than 4"),
        (b"\xff\xfe{}", {}, "not UTF-8"),
        ([1], {}, "holds a list"),
        (
            b'{"a":{"dtype":"F32","shape":[8],"data_offsets":[0,32]},"a":{"dtype":"F32","shape":[8],"data_offsets":[0,32]}}',
            {},
            'the key "a" twice',
        ),
        (changed("b", data_offsets=[20, 28]), {}, "'b' overlaps"),
        (changed("b", data_offsets=[28, 36]), {"data": b"\0" * 36}, "'b' leaves a hole"),
        (changed("a", shape=[2**40, 2**40]), {}, "does not fill its"),
        (changed("a", shape=[2, 4]), {}, "does not fill its"),
        (changed("a", shape=[-2, -3]), {}, "unusable shape"),
        (changed("a", shape=[2.0, 3]), {}, "unusable shape"),
        (changed("a", shape=[True, 6]), {}, "unusable shape"),
        (changed("a", shape="23"), {}, "unusable shape"),
        (changed("a", shape=[2**62] * 100_000), {}, "unusable shape"),
        (changed("a", data_offsets=[24, 0]), {}, "does not fill its"),
        (changed("a", data_offsets=[0, 2**64]), {}, "unusable data_offsets"),
        (changed("a", dtype="F99"), {}, "unknown type"),
        (changed("a", dtype=None), {}, "unknown type"),
        (changed("a", dtype=["F32"]), {}, "unknown type"),
        (changed("a", dtype={"F32": 1}), {}, "unknown type"),
        ({"a": 5}, {}, "lacks dtype, shape"),
    ],
)
def test_a_header_that_lies_is_refused_in_one_line(
    header: Any, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "x.safetensors", header, **options)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_header(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_damage_to_a_file_is_anything_but_one_line_or_harmless(
    tmp_path: Path, data: st.DataObject
) -> None:
    """Bytes changed, cut or added anywhere: the header is refused, or still describes tensors inside the
    file.
    """
    content = bytearray(write(tmp_path / "good", GOOD).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(content)))
    content = content[:cut] if data.draw(st.booleans()) else content
    content += data.draw(st.binary(max_size=16))
    path = tmp_path / "bad.safetensors"
    path.write_bytes(bytes(content))
    try:
        entries = read_header(path)
    except CheckpointError as error:
        assert "\n" not in str(error)
    else:
        assert all(0 <= entry.start <= entry.end <= len(content) for entry in entries.values())


@pytest.mark.parametrize("start", [b"PK\x03\x04" + b"\0" * 60, b"\x80\x02}q\x00" + b"\0" * 60])
def test_a_pickle_under_another_name_is_refused(start: bytes, tmp_path: Path) -> None:
    tiny("llama").save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(start)
    with pytest.raises(CheckpointError, match="pickle under another name"):
        load_model(tmp_path)


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


def slow_fp8(weight: torch.Tensor, scale: torch.Tensor, size: int) -> torch.Tensor:
    result = torch.empty(weight.shape)
    for row in range(weight.shape[0]):
        for column in range(weight.shape[1]):
            result[row, column] = float(weight[row, column].float()) * float(
                scale[row // size, column // size]
            )
    return result


def test_fp8_blocks_with_partial_ones_at_both_ends() -> None:
    weight = torch.randn(10, 7).to(torch.float8_e4m3fn)
    scale = torch.rand(3, 2) + 0.5
    assert torch.equal(fp8_blocks(weight, scale, 4, 4), slow_fp8(weight, scale, 4))


def test_mxfp4_by_hand() -> None:
    blocks = torch.zeros(1, 1, 2, 16, dtype=torch.uint8)
    blocks[0, 0, 0, 0] = 0x21  # low half first: 1 -> 0.5, 2 -> 1.0
    blocks[0, 0, 0, 15] = 0xF7  # 7 -> 6.0, 15 -> -6.0
    blocks[0, 0, 1, 3] = 0x9A  # 10 -> -1.0, 9 -> -0.5
    scales = torch.tensor([[[128, 126]]], dtype=torch.uint8)  # times 2, times 1/2
    expected = torch.zeros(1, 1, 64)
    expected[0, 0, [0, 1, 30, 31]] = torch.tensor([1.0, 2.0, 12.0, -12.0])
    expected[0, 0, [38, 39]] = torch.tensor([-0.5, -0.25])
    assert torch.equal(mxfp4(blocks, scales), expected)


def test_mxfp4_equals_transformers(tmp_path: Path) -> None:
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    generator = torch.Generator().manual_seed(0)
    blocks = torch.randint(0, 256, (3, 8, 2, 16), generator=generator, dtype=torch.uint8)
    scales = torch.randint(110, 140, (3, 8, 2), generator=generator, dtype=torch.uint8)
    theirs = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)  # (E, I, O)
    assert torch.equal(mxfp4(blocks, scales).transpose(1, 2), theirs)


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
            expected[name] = slow_fp8(tensors[name], tensors[name + "_scale_inv"], 16)
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


def test_a_gpt_oss_directory_in_mxfp4_is_read(tmp_path: Path) -> None:
    tiny("gpt_oss", hidden_size=64, intermediate_size=32).save_pretrained(tmp_path / "a")
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
            expected[name] = mxfp4(blocks, scales).transpose(1, 2)
    save_file(tensors, tmp_path / "a" / "model.safetensors")
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "mxfp4"}
    (tmp_path / "a" / "config.json").write_text(json.dumps(config))
    save_model(tmp_path / "b", load_model(tmp_path / "a").model)
    after = load_file(tmp_path / "b" / "model.safetensors")
    assert all(torch.equal(after[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("quantisation", "message"),
    [({"quant_method": "awq"}, "quantised as 'awq'"), (None, "stored as F8_E4M3, but config.json")],
)
def test_other_quantisation_is_refused(
    quantisation: dict[str, Any] | None, message: str, tmp_path: Path
) -> None:
    save_file({"w": torch.zeros(4, 4).to(torch.float8_e4m3fn)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=message):
        StoredTensors([tmp_path / "model.safetensors"], quantisation)


def test_a_quantised_tensor_needs_its_scale(tmp_path: Path) -> None:
    save_file({"w": torch.zeros(4, 4).to(torch.float8_e4m3fn)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="'w_scale_inv' is missing"):
        StoredTensors([tmp_path / "model.safetensors"], {"quant_method": "fp8"})


@pytest.mark.parametrize("length", [0x0280, 0x0480, 0x10580])
def test_a_header_whose_length_looks_like_a_pickle_is_read(length: int, tmp_path: Path) -> None:
    text = b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}'
    (tmp_path / "a.safetensors").write_bytes(
        struct.pack("<Q", length) + text.ljust(length) + struct.pack("<f", 2.5)
    )
    assert list(read_header(tmp_path / "a.safetensors")) == ["a"]
