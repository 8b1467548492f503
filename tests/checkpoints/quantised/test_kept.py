"""Stored codes that our own blocks can hold are held as they are; others are rounded, and the change told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from coterie.adapters.attach import attach, merge_adapter
from coterie.adapters.files import read_adapter, save_adapter
from coterie.adapters.merge import merge_checkpoint
from coterie.checkpoints.checkpoint import Checkpoint, Loaded
from coterie.checkpoints.convert import convert_directory
from coterie.checkpoints.quantise import held_forms, quantised_parts
from coterie.config import AdapterConfig, CheckpointError, Precision
from coterie.families import family
from coterie.gguf.export import export_gguf
from coterie.nn.transformer import Transformer
from tests.adapters.test_attach import config as adapter_config
from tests.adapters.test_attach import randomise_factors
from tests.arithmetic import assert_model_close
from tests.checkpoints.quantised.packers import (
    Pack,
    awq,
    directory,
    fp8,
    gptq,
    packed,
    rows8,
    table4,
    whole8,
)
from tests.checkpoints.quantised.reading import logits
from tests.checkpoints.quantised.test_compressed import PACK, config
from tests.gguf.models import write

GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 16}
BNB = {"quant_method": "bitsandbytes"}


def held(path: Path, quant: str) -> Loaded:
    how = AdapterConfig(quant=quant, quant_block=8)  # type: ignore[arg-type]
    return Checkpoint.open(path).load(dtype="float32", precision=how.precision)


def assert_kept(path: Path, loaded: Loaded) -> None:
    """Every matrix in codes is the matrix that is read, bit for bit, and the answers are the same."""
    plain: Transformer = Checkpoint.open(path).load(dtype="float32").model
    own, parts = dict(plain.named_parameters()), quantised_parts(loaded.model)
    assert parts and loaded.rounding.rounded == 0 and loaded.rounding.kept >= len(parts)
    for name, codes in parts.items():
        assert codes.kept and torch.equal(codes.dequantise(dtype=torch.float32), own[name].detach()), name
        for index in range(own[name].shape[0]) if own[name].dim() == 3 else []:
            half = codes.dequantise(index, torch.bfloat16)
            assert torch.equal(half, own[name][index].detach().to(torch.bfloat16))
    assert_model_close(plain.config, logits(loaded.model), logits(plain), 11)


@pytest.mark.parametrize(
    ("pack", "settings", "quant", "dtype"),
    [
        (packed(), config(PACK), "int4", torch.bfloat16),
        (packed(), config(PACK), "int8", torch.bfloat16),
        (packed(8, -1), config(PACK, num_bits=8, group_size=-1), "int8", torch.bfloat16),
        (packed(4, 32, dtype=torch.float32), config(PACK), "int4", torch.float32),
        (whole8(), config("int-quantized", num_bits=8, strategy="channel"), "int8", torch.bfloat16),
        (whole8(None), config("naive-quantized", num_bits=8, strategy="tensor"), "int8", torch.bfloat16),
        (gptq(symmetric=True, order=False), GPTQ | {"sym": True}, "int4", torch.float16),
        (gptq(3, 32, symmetric=True), GPTQ | {"bits": 3, "group_size": 32}, "int4", torch.float16),
        (gptq(8, -1, 0, symmetric=True), GPTQ | {"bits": 8, "group_size": -1, "format": "gptq_v2"}, "int8",
         torch.float16),
        (awq(symmetric=True), {"quant_method": "awq", "group_size": 16}, "int4", torch.float16),
        (rows8, BNB, "int8", torch.float32),
    ],
)  # fmt: skip
def test_what_fits_is_held_as_it_is(
    pack: Pack, settings: dict[str, Any], quant: str, dtype: torch.dtype, tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    directory(tmp_path, pack, settings)
    loaded = held(tmp_path, quant)
    assert_kept(tmp_path, loaded)
    assert {codes.scales.dtype for codes in quantised_parts(loaded.model).values()} == {dtype}
    assert "10 matrices are kept code for code (lossless)" in caplog.text


@pytest.mark.parametrize(
    ("pack", "settings", "quant", "low", "high"),
    [
        (gptq(), GPTQ, "int4", 0.01, 0.2),
        (gptq(symmetric=True, order=True), GPTQ, "int8", 1e-4, 0.02),
        (gptq(8, symmetric=True), GPTQ | {"bits": 8}, "int4", 0.02, 0.2),
        (awq(), {"quant_method": "awq", "group_size": 16}, "int8", 1e-4, 0.02),
        (packed(4, 32, "packed"), config(PACK, symmetric=False), "int4", 0.01, 0.2),
        (table4(), BNB, "int4", 0.01, 0.2),
        (fp8(8, 8), {"quant_method": "fp8", "weight_block_size": [8, 8]}, "int8", 1e-3, 0.02),
    ],
)
def test_what_does_not_fit_is_rounded_and_measured(
    pack: Pack, settings: dict[str, Any], quant: str, low: float, high: float, tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    meant = directory(tmp_path, pack, settings)
    loaded = held(tmp_path, quant)
    assert loaded.rounding.kept == 0 and loaded.rounding.rounded == 10
    assert "10 matrices are rounded, which changes them by " in caplog.text
    # The matrices are smaller than a sample, so what is told is the change of all of them.
    parts, error, size = quantised_parts(loaded.model), 0.0, 0.0
    for slot in family(loaded.model.config.family).slots(loaded.model.config):
        if slot.name in parts and slot.disk in meant:
            error += float((slot.view(parts[slot.name].dequantise()) - meant[slot.disk]).square().sum())
            size += float(meant[slot.disk].square().sum())
    told = (loaded.rounding.error / loaded.rounding.size) ** 0.5
    assert told == pytest.approx((error / size) ** 0.5, rel=1e-3) and low < told < high


def test_forms_may_be_mixed(tmp_path: Path) -> None:
    settings = config("mixed-precision")
    attention = {"targets": ["re:.*self_attn.*"], "weights": {"num_bits": 8, "type": "float"}}
    settings["config_groups"]["group_1"] = attention
    directory(tmp_path, packed(), settings, attention=fp8(1, None, ".weight_scale"))
    loaded = held(tmp_path, "int4")
    assert (loaded.rounding.kept, loaded.rounding.rounded) == (6, 4)
    assert "6 matrices are kept code for code (lossless), 4 matrices are rounded" in str(loaded.rounding)


@pytest.mark.parametrize(("kind", "quant"), [("llama", "q8_0"), ("qwen3_moe", "q4_0"), ("mixtral", "q8_0")])
def test_ggufs_blocks_with_a_step_are_held_as_they_are(kind: str, quant: str, tmp_path: Path) -> None:
    """Also where the file orders rows for rope in its own way, and stacks experts."""
    source = write(kind, tmp_path / "a", hidden_size=64, num_hidden_layers=1)
    file = tmp_path / "b" / "model.gguf"
    export_gguf(source, file, quant)
    loaded = held(file, "int8" if quant == "q8_0" else "int4")
    assert loaded.rounding.kept > 0
    plain = dict(Checkpoint.open(file).load(dtype="float32").model.named_parameters())
    kept = {name: codes for name, codes in quantised_parts(loaded.model).items() if codes.kept}
    assert kept and all(torch.equal(codes.dequantise(), plain[name]) for name, codes in kept.items())


@pytest.mark.parametrize(
    ("pack", "settings", "kept"),
    [
        (packed(4, 16), config(PACK, group_size=16), False),
        (packed(), config(PACK), True),
        (fp8(8, 8), {"quant_method": "fp8", "weight_block_size": [8, 8]}, False),
    ],
)
def test_a_model_is_served_as_its_files_have_it(
    pack: Pack, settings: dict[str, Any], kept: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory(tmp_path, pack, settings)
    loaded = Checkpoint.open(tmp_path).load("float32", precision=Precision.parse("stored"))
    if kept:
        assert_kept(tmp_path, loaded)
        assert "code for code (lossless); all else is read as float32" in caplog.text
        assert held_forms(loaded.model)["attention"] == "int4 in blocks of 32"
        mixed = Checkpoint.open(tmp_path).load("float32", precision=Precision.parse("attention=bf16"))
        assert held_forms(mixed.model)["attention"] == "bf16" and quantised_parts(mixed.model)
    else:
        assert not quantised_parts(loaded.model) and "read as float32, and saved so" in caplog.text


def test_tuning_a_quantised_base_is_stamped_and_merges_into_it_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base = tmp_path / "base"
    directory(base, gptq(symmetric=True), GPTQ)
    how = adapter_config(quant="int4", quant_block=8)
    # Held as `coterie tune` holds it: the tensors that are not in codes lose what bfloat16 cannot hold.
    model = Checkpoint.open(base).load("bfloat16", compute_dtype=torch.float32, precision=how.precision).model
    attach(model, how)
    randomise_factors(model)
    save_adapter(tmp_path / "adapter", model, base)
    stamp = read_adapter(tmp_path / "adapter").stamp
    assert stamp["base"]["quantisation"] == "gptq, 4 bits in groups of 16"
    caplog.clear()
    result = merge_checkpoint(base, tmp_path / "adapter", tmp_path / "out", dtype="float32")
    assert result.adapter_probes and result.dequantised and "unrounded" not in caplog.text
    merged = dict(Checkpoint.open(tmp_path / "out").load(dtype="float32").model.named_parameters())
    merge_adapter(model)
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1 and ("attention" in name or "experts" in name):
            torch.testing.assert_close(merged[name], parameter.float(), rtol=2e-6, atol=2e-6)
    assert merge_checkpoint(base, tmp_path / "adapter", tmp_path / "narrow").dtype == "bfloat16"
    # The same weights in bfloat16 are other weights: the line says which form the right ones have.
    convert_directory(base, tmp_path / "wide", dtype="bfloat16")
    wanted = "was made for other weights .* stored as gptq, 4 bits in groups of 16"
    with pytest.raises(CheckpointError, match=wanted):
        merge_checkpoint(tmp_path / "wide", tmp_path / "adapter", tmp_path / "other")
