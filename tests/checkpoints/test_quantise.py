"""Quantised bases: rounded in memory or while reading, the same codes; adapters on top, saved, checked and
merged.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import coterie
from coterie.adapters.apply import apply_in_place, apply_shared
from coterie.adapters.attach import attach, merge_adapter
from coterie.adapters.files import save_adapter
from coterie.adapters.merge import merge_checkpoint
from coterie.checkpoints.checkpoint import Checkpoint
from coterie.checkpoints.directory import load_model, save_model
from coterie.checkpoints.quantise import (
    held_forms,
    in_words,
    quantise_model,
    quantised_parts,
    weights_by_group,
)
from coterie.config import AdapterConfig, CheckpointError, ConfigError, Precision
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


def the(how: AdapterConfig) -> Precision:
    assert how.precision is not None
    return how.precision


@pytest.mark.parametrize("quant", ["int8", "int4"])
@pytest.mark.parametrize("name", FAMILIES)
def test_reading_rounded_is_rounding_what_was_read(name: str, quant: str, tmp_path: Path) -> None:
    tiny(name).save_pretrained(tmp_path)
    how = AdapterConfig(quant=quant, quant_block=8)  # type: ignore[arg-type]
    read = load_model(tmp_path, precision=how.precision).model
    after = load_model(tmp_path).model
    exact = logits(after)
    quantise_model(after, the(how))
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
    how = AdapterConfig(quant="int4", quant_block=16, train={"shared": "full"})
    quantise_model(model, the(how))
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
    quantise_model(other, the(how))
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
        quantise_model(model, the(how))


def layout() -> Any:
    from coterie.nn.forward_context import ForwardContext

    return ForwardContext.packed([3])


@pytest.mark.parametrize("name", ["qwen3_moe", "gpt_oss"])
def test_an_adapter_of_a_rounded_base_is_saved_checked_and_merged_into_the_exact_one(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_model(tmp_path / "base", built(name))
    model = load_model(
        tmp_path / "base", precision=(how := config(quant="int8", quant_block=8)).precision
    ).model
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


def test_each_class_is_held_in_its_form(tmp_path: Path) -> None:
    save_model(tmp_path, built("deepseek_v3"))
    table = "experts=int4,attention=bf16,ffn=int8,head=int8,embedding=f16,block=8"
    mixed = coterie.load(tmp_path, quant=table)
    assert mixed.held == {
        "attention": "bf16", "experts": "int4 in blocks of 8", "shared": "int8 in blocks of 8",
        "dense": "int8 in blocks of 8", "head": "int8 in blocks of 8", "embedding": "f16",
    }  # fmt: skip
    assert in_words(mixed.held) == (
        "attention in bf16; experts in int4 in blocks of 8; shared, dense, head in int8 in blocks of 8; "
        "embedding in f16"
    )
    exact = coterie.load(tmp_path)
    assert mixed.num_parameters == exact.num_parameters and set(exact.held.values()) == {"f32"}
    # What is left alone is bit for bit the file's, and the answers are those of the numbers that are held.
    own, plain = dict(mixed.model.named_parameters()), dict(exact.model.named_parameters())
    assert all(torch.equal(own[name], plain[name]) for name in own if "norm" in name or "router" in name)
    with torch.no_grad():
        for name, codes in quantised_parts(mixed.model).items():
            plain[name].copy_(codes.dequantise())
        for name, parameter in own.items():
            plain[name].copy_(parameter)
    assert_model_close(exact.config, logits(mixed.model), logits(exact.model), len(IDS))
    checkpoint = Checkpoint.open(tmp_path)
    assert checkpoint.held_bytes("float32", Precision.parse(table)) == sum(
        tensor.nbytes for tensor in (*mixed.model.parameters(), *mixed.model.buffers())
    )


def test_a_head_that_is_the_embedding_becomes_a_rounded_copy(tmp_path: Path) -> None:
    save_model(tmp_path, built("llama_tied_bias"))
    plain, model = coterie.load(tmp_path), coterie.load(tmp_path, quant="head=int8")
    assert torch.equal(model.model.embed.weight, plain.model.embed.weight)
    assert model.num_parameters == plain.num_parameters
    codes = quantised_parts(model.model)["head.weight"]
    assert_model_close(
        plain.config,
        model.logits(IDS),
        model.model.logits(model._hidden(IDS)[0]),
        len(IDS),
    )
    expected = plain._hidden(IDS)[0].detach() @ codes.dequantise().T
    assert_model_close(plain.config, model.logits(IDS), expected, len(IDS))
    assert not torch.equal(codes.dequantise(), plain.model.embed.weight)


def test_what_cannot_be_held_so_is_refused(tmp_path: Path) -> None:
    save_model(tmp_path, built("qwen3"), probes=True)
    with pytest.raises(ConfigError, match="quant: experts=int4 names no weight of this qwen3 model"):
        coterie.load(tmp_path, quant="experts=int4")
    with pytest.raises(ConfigError, match="answer unlike the probes; check without quant"):
        coterie.load(tmp_path, quant="int8", check=True)
    coterie.load(tmp_path, quant="stored", check=True)
    assert held_forms(coterie.load(tmp_path, quant="none").model)["attention"] == "f32"


def test_adapters_of_the_exact_base_answer_on_a_rounded_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_model(tmp_path / "base", built("qwen3_moe"))
    exact = load_model(tmp_path / "base").model
    attach(exact, config())
    randomise_factors(exact)
    save_adapter(tmp_path / "adapter", exact, tmp_path / "base")
    base = coterie.load(tmp_path / "base", quant="int8,block=8")
    served = apply_shared(base.model, tmp_path / "adapter", base.checkpoint)
    assert "its stored answers are not checked: they are of unrounded weights" in caplog.text
    # The same codes and factors, widened: what is served is the adapter on what is held.
    wide = load_model(tmp_path / "base").model
    with torch.no_grad():
        for name, codes in quantised_parts(base.model).items():
            wide.get_parameter(name).copy_(codes.dequantise())
    apply_in_place(wide, tmp_path / "adapter")
    assert_model_close(wide.config, logits(served), logits(wide), len(IDS), passes=MERGED)
