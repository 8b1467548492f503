"""Whatever is wrong with a quantised file or its description is one line, or the file is read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from coterie.checkpoints.quantised.encoded import packed_words, unpacked
from coterie.checkpoints.quantised.settings import QuantSettings
from coterie.checkpoints.stored_tensors import StoredTensors
from coterie.config import CheckpointError
from tests.checkpoints.quantised.packers import Pack, awq, fp4, fp8, gptq, packed, rows8, table4, words
from tests.checkpoints.quantised.test_compressed import PACK, config

NVFP4 = fp4("nvfp4", ".weight", ".weight_scale_2")
METHODS: dict[str, tuple[Pack, dict[str, Any]]] = {
    "fp8": (fp8(8, 8), {"quant_method": "fp8", "weight_block_size": [8, 8]}),
    "gptq": (gptq(order=True), {"quant_method": "gptq", "bits": 4, "group_size": 16, "dynamic": {}}),
    "awq": (awq(), {"quant_method": "awq", "bits": 4, "group_size": 16, "version": "gemm"}),
    "table": (table4(nested=4), {"quant_method": "bitsandbytes"}),
    "rows": (rows8, {"quant_method": "bitsandbytes"}),
    "packed": (packed(zero="packed"), config(PACK, symmetric=False)),
    "modelopt": (NVFP4, {"quant_method": "modelopt", "quant_algo": "NVFP4"}),
}  # fmt: skip
JUNK = st.sampled_from([None, 0, -1, 3, 1.5, "x", "", [], [0, 0], {}, {"a": 1}, True, 2**70])
TYPES = [torch.int32, torch.int64, torch.uint8, torch.int8, torch.float16, torch.float32, torch.float8_e4m3fn]


def changed(tensor: Tensor, data: st.DataObject) -> Tensor | None:
    """The tensor left out, of another type or shape, or with other bytes."""
    how = data.draw(st.sampled_from(["without", "type", "shape", "bytes"]))
    if how == "without":
        return None
    if how == "type":
        return torch.zeros(tensor.shape).to(data.draw(st.sampled_from(TYPES)))
    if how == "shape":
        sizes = data.draw(st.lists(st.integers(0, 70), max_size=3))
        return torch.zeros(sizes).to(tensor.dtype)
    octets = torch.randint(0, 256, (tensor.numel() * tensor.itemsize,), dtype=torch.uint8)
    return octets.view(tensor.dtype).view(tensor.shape)


def altered(values: Mapping[str, Any], data: st.DataObject) -> dict[str, Any]:
    """The settings with one value, at some depth, replaced."""
    key = data.draw(st.sampled_from(sorted(set(values) - {"quant_method"})))
    inner = values[key]
    if isinstance(inner, dict) and inner and data.draw(st.booleans()):
        return {**values, key: altered(inner, data)}
    return {**values, key: data.draw(JUNK)}


@pytest.mark.parametrize("name", METHODS)
def test_damage_is_one_line_or_read(name: str, tmp_path: Path) -> None:
    pack, good = METHODS[name]
    parts, meant = pack(torch.Generator().manual_seed(0), 32, 64)
    file = tmp_path / "model.safetensors"

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.data())
    def damage(data: st.DataObject) -> None:
        tensors: dict[str, Tensor | None] = {f"x{ending}": part for ending, part in parts.items()}
        given_settings = dict(good)
        if len(good) > 1 and data.draw(st.booleans()):
            given_settings = altered(good, data)
        else:
            key = data.draw(st.sampled_from(sorted(tensors)))
            tensor = tensors[key]
            assert tensor is not None
            tensors[key] = changed(tensor, data)
        save_file({key: t.contiguous() for key, t in tensors.items() if t is not None}, file)
        try:
            stored = StoredTensors([file], QuantSettings(given_settings, "config.json"))
            for tensor_name in stored:
                stored.grid(tensor_name)
                assert stored.read(tensor_name).shape == stored.shape(tensor_name)
        except CheckpointError as error:
            assert "\n" not in str(error)

    damage()
    save_file({f"x{ending}": part.contiguous() for ending, part in parts.items()}, file)
    assert torch.equal(StoredTensors([file], QuantSettings(good, "config.json")).read("x.weight"), meant)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_numbers_of_any_bits_are_unpacked(data: st.DataObject) -> None:
    bits, count = data.draw(st.integers(1, 8)), data.draw(st.integers(1, 100))
    rows = data.draw(
        st.lists(st.lists(st.integers(0, 2**bits - 1), min_size=count, max_size=count), min_size=1)
    )
    stored = words(rows, bits)
    assert stored.shape[1] == packed_words(count, bits)
    assert unpacked(stored, bits, count).tolist() == rows
