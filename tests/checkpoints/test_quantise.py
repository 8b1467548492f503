"""Quantised bases: rounded in memory or while reading, the same codes; adapters on top, saved, checked and
merged.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import coterie
from coterie.adapters.attach import attach, merge_adapter
from coterie.adapters.files import save_adapter
from coterie.adapters.merge import merge_checkpoint
from coterie.checkpoints.directory import load_model, save_model
from coterie.checkpoints.quantise import quantise_model, quantised_parts, weights_by_group
from coterie.config import AdapterConfig, CheckpointError, ConfigError
from tests.adapters.test_attach import IDS, MERGED, built, config, logits, randomise_factors
from tests.arithmetic import assert_model_close
from tests.families.hf import tiny

FAMILIES = [
    "qwen3",
    "llama_tied_bias",
    "qwen3_moe",
    "mixtral",
    "olmoe",
    "deepseek_v3",
    "gpt_oss",
    "llama4_maverick",
]


@pytest.mark.parametrize("quant", ["int8", "int4"])
@pytest.mark.parametrize("name", FAMILIES)
def test_reading_rounded_is_rounding_what_was_read(name: str, quant: str, tmp_path: Path) -> None:
    tiny(name).save_pretrained(tmp_path)
    how = AdapterConfig(quant=quant, quant_block=8)  # type: ignore[arg-type]
    read = load_model(tmp_path, quantise=how).model
    after = load_model(tmp_path).model
    exact = logits(after)
    quantise_model(after, how)
    ours, slow = quantised_parts(read), quantised_parts(after)
    assert ours.keys() == slow.keys() and ours
    for parameter, codes in ours.items():
        assert torch.equal(codes.codes, slow[parameter].codes), parameter
        assert torch.equal(codes.scales, slow[parameter].scales), parameter
    assert_model_close(read.config, logits(read), logits(after), len(IDS))
    if quant == "int8":
        apart = float((logits(read) - exact).abs().mean() / exact.std())
        assert 1e-5 < apart < 0.1


def test_what_is_rounded_and_the_bits_of_each_group() -> None:
    model = built("deepseek_v3")
    quantise_model(model, AdapterConfig(quant="int4", quant_block=16, train={"shared": "full"}))
    groups = weights_by_group(model)
    assert groups["embedding"].bits == groups["head"].bits == groups["router"].bits == 32
    assert groups["shared"].bits == groups["norm"].bits == 32
    # gate_up in blocks of 16 (5 bits with a scale of 16), down in blocks of 12, twice as many numbers in
    # gate_up
    assert groups["experts"].bits == pytest.approx((2 * (4 + 16 / 16) + (4 + 16 / 12)) / 3)
    assert groups["experts"].numbers == 3 * 12 * 3 * 32 * 12
    assert 4.9 < groups["attention"].bits < 8


def test_attach_quantises_and_factors_start_from_the_rounded_model(tmp_path: Path) -> None:
    model = built("qwen3_moe")
    how = config(quant="int4", quant_block=8)
    attach(model, how)
    other = built("qwen3_moe")
    quantise_model(other, how)
    assert torch.equal(logits(model), logits(other))
    trainable = [n for n, p in model.named_parameters() if p.requires_grad]
    assert trainable and all(".lora_" in name for name in trainable)
    model(torch.tensor([1, 2, 3]), layout()).sum().backward()
    assert all(p.grad is not None for n, p in model.named_parameters() if n.endswith("lora_B"))
    with pytest.raises(CheckpointError, match="has an adapter"):
        save_model(tmp_path / "x", model)
    with pytest.raises(CheckpointError, match="quantised in memory"):
        save_model(tmp_path / "x", other)
    with pytest.raises(ConfigError, match="has an adapter"):
        quantise_model(model, how)
    with pytest.raises(ConfigError, match="is none"):
        quantise_model(built("qwen3"), AdapterConfig())


def layout() -> Any:
    from coterie.nn.forward_context import ForwardContext

    return ForwardContext.packed([3])


@pytest.mark.parametrize("name", ["qwen3_moe", "gpt_oss"])
def test_an_adapter_of_a_rounded_base_is_saved_checked_and_merged_into_the_exact_one(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_model(tmp_path / "base", built(name))
    model = load_model(tmp_path / "base", quantise=(how := config(quant="int8", quant_block=8))).model
    attach(model, how)
    randomise_factors(model)
    save_adapter(tmp_path / "adapter", model, tmp_path / "base")
    result = merge_checkpoint(tmp_path / "base", tmp_path / "adapter", tmp_path / "out")
    assert result.adapter_probes and result.gravity > 0.999
    assert "trained on int8 weights; it is merged into the unrounded ones" in caplog.text
    exact = coterie.load(tmp_path / "base", adapter=tmp_path / "adapter", check=False).model
    merged = load_model(tmp_path / "out").model
    assert_model_close(model.config, logits(exact), logits(merged), len(IDS), passes=MERGED)
    rounded = logits(model)
    merge_adapter(model)
    assert_model_close(model.config, logits(model), rounded, len(IDS), passes=MERGED)
