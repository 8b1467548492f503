"""Merging: the written checkpoint is base with adapter, and every historical way of losing it is noticed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from coterie.adapters import merge, peft_layouts
from coterie.adapters.apply import apply_in_place
from coterie.adapters.attach import adapted_layers, attach, drop_adapter, merge_adapter
from coterie.adapters.files import save_adapter
from coterie.adapters.merge import merge_checkpoint
from coterie.checkpoints.commit import verify_directory
from coterie.checkpoints.directory import load_model, save_model
from coterie.config import CheckpointError
from coterie.nn.lora import LoRAExpertLinear
from coterie.nn.transformer import Transformer
from coterie.proof.judge import check_probes
from tests.adapters.test_attach import IDS, MERGED, config, logits, randomise_factors
from tests.arithmetic import assert_model_close, model_tolerance
from tests.checkpoints.alive import one_at_a_time
from tests.checkpoints.opens import count_opens
from tests.families.hf import tiny

MODELS: list[Any] = ["llama_tied_bias", "qwen3_moe", "olmoe", "deepseek_v3", "gpt_oss", "gemma4_text_moe"]
MODELS += [
    "nemotron_h_latent",
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("mixtral", "llama4_scout")),
]


def made(
    tmp_path: Path, name: str = "qwen3_moe", dtype: str = "float32", size: float = 0.1, **how: object
) -> None:
    """A base saved by transformers and an adapter of it. Square gate-up matrices: hidden 32 is twice 16."""
    square = {"qwen3_moe": {"moe_intermediate_size": 16}}.get(name, {})
    tiny(name, **square).save_pretrained(tmp_path / "theirs")
    model = load_model(tmp_path / "theirs").model
    save_model(tmp_path / "base", model, dtype=dtype)
    model = load_model(tmp_path / "base").model
    attach(model, config(**how))
    randomise_factors(model, size=size)
    save_adapter(tmp_path / "adapter", model, tmp_path / "base")


def merged(tmp_path: Path, **how: object) -> merge.Merge:
    return merge_checkpoint(tmp_path / "base", tmp_path / "adapter", tmp_path / "out", **how)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", MODELS)
def test_the_written_model_is_base_with_adapter_and_transformers_reads_it(name: str, tmp_path: Path) -> None:
    made(tmp_path, name, train={"router": "lora", "norm": "full"}, dora=name == "olmoe")
    result = merged(tmp_path)
    assert result.gravity > 0.999 and result.adapter_probes
    assert not result.dequantised and result.dtype == "float32"
    model = load_model(tmp_path / "base").model
    before = logits(model)
    apply_in_place(model, tmp_path / "adapter", tmp_path / "base")
    whole = load_model(tmp_path / "out", check=True).model
    assert float((logits(model) - before).abs().max()) > 0.05
    expected = logits(model)
    allowed = model_tolerance(model.config, expected.log_softmax(-1), model.config.max_positions)
    assert result.difference.max_logprob <= allowed
    assert_model_close(model.config, logits(whole), expected, len(IDS), passes=MERGED)
    theirs = AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", dtype=torch.float32, attn_implementation="eager", experts_implementation="eager"
    )
    with torch.no_grad():
        found = theirs(IDS[None]).logits[0]
        assert_model_close(model.config, found, expected, len(IDS), passes=MERGED)
    verify_directory(tmp_path / "out")
    manifest = json.loads((tmp_path / "out" / "coterie.json").read_text())
    assert (
        manifest["merged"]["adapter"] == str(tmp_path / "adapter") and manifest["merged"]["gravity"] > 0.999
    )


def test_a_merge_opens_base_and_adapter_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(tmp_path)
    opened = count_opens(monkeypatch)
    merged(tmp_path)
    for name, weights in (("base", "model.safetensors"), ("adapter", "adapter_model.safetensors")):
        found = {
            str(path.relative_to(tmp_path / name)): count
            for path, count in opened.items()
            if path.is_relative_to(tmp_path / name)
        }
        assert {weights, "coterie.json"} <= found.keys() and set(found.values()) == {1}, found
    assert opened[tmp_path / "adapter" / "probes" / "probes.safetensors"] == 1


Fault = Callable[[Transformer], None]


def experts(model: Transformer) -> list[LoRAExpertLinear]:
    return [layer for _, layer in adapted_layers(model) if isinstance(layer, LoRAExpertLinear)]


def dropped(model: Transformer) -> None:
    for layer in experts(model):
        layer.lora_B.data.zero_()


def transposed(model: Transformer) -> None:
    for layer in experts(model):
        if layer.in_features == layer.out_features:
            layer.lora_A.data, layer.lora_B.data = layer.lora_B.data.mT.clone(), layer.lora_A.data.mT.clone()


def permuted(model: Transformer) -> None:
    for layer in experts(model):
        layer.lora_B.data, layer.lora_A.data = layer.lora_B.data.roll(1, 0), layer.lora_A.data.roll(1, 0)


def double_scaled(model: Transformer) -> None:
    for _, layer in adapted_layers(model):
        layer.alpha *= 2


def other_order(model: Transformer) -> None:
    """B's columns taken as expert-slowest: the same file meant two models."""
    for layer in experts(model):
        num_experts, outputs, rank = layer.lora_B.shape
        flat = layer.lora_B.data.permute(1, 2, 0).reshape(outputs, -1)
        layer.lora_B.data = flat.reshape(outputs, num_experts, rank).permute(1, 0, 2).contiguous()


def swapped_halves(model: Transformer) -> None:
    for layer in experts(model)[::2]:
        layer.lora_B.data = layer.lora_B.data.roll(layer.out_features // 2, 1)


FAULTS = [dropped, transposed, permuted, double_scaled, other_order, swapped_halves]
LOST = [(fault, 0.1) for fault in FAULTS] + [
    # A small change is harder to see.
    pytest.param(fault, 0.02, marks=[] if fault in (transposed, swapped_halves) else [pytest.mark.slow])
    for fault in FAULTS
]


@pytest.mark.parametrize(("fault", "size"), LOST)
def test_a_merge_that_loses_the_adapter_fails_and_leaves_nothing(
    fault: Fault, size: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(tmp_path, size=size, train=dict.fromkeys(("attention", "shared", "dense"), "freeze"))

    def faulty(model: Transformer) -> None:
        with torch.no_grad():
            fault(model)
        merge_adapter(model)

    monkeypatch.setattr(merge, "merge_adapter", faulty)
    with pytest.raises(
        CheckpointError, match=r"the merged model (is|still).*base gravity .*nothing was written"
    ) as error:
        merged(tmp_path)
    assert "\n" not in str(error.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "base", "theirs"]


def test_the_base_written_back_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(tmp_path)
    monkeypatch.setattr(merge, "merge_adapter", drop_adapter)
    with pytest.raises(CheckpointError, match="the merged model is still the base"):
        merged(tmp_path)
    assert not (tmp_path / "out").exists()


def test_an_adapter_that_is_misread_does_not_answer_as_it_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(tmp_path)
    right = peft_layouts.unfuse

    def slowest(
        a: torch.Tensor, b: torch.Tensor, num_experts: int, swapped: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return right(a, b, num_experts, swapped)[0], b.reshape(b.shape[0], num_experts, -1).permute(
            1, 0, 2
        ).contiguous()

    monkeypatch.setattr(peft_layouts, "unfuse", slowest)
    with pytest.raises(CheckpointError, match="is not the model its probes were recorded from"):
        merged(tmp_path)


def test_an_adapter_that_changes_nothing_is_no_adapter(tmp_path: Path) -> None:
    made(tmp_path, size=0.0)
    with pytest.raises(CheckpointError, match="changes nothing; base with adapter is still the base"):
        merged(tmp_path)


def test_bfloat16_bases_stay_bfloat16_unless_the_change_would_drown(tmp_path: Path) -> None:
    made(tmp_path, dtype="bfloat16")
    result = merged(tmp_path)
    assert result.dtype == "bfloat16" and result.gravity > 0.9
    check_probes(tmp_path / "out", load_model(tmp_path / "out").model)


def test_a_change_below_the_rounding_is_refused_with_advice(tmp_path: Path) -> None:
    made(tmp_path, dtype="bfloat16", size=0.001)
    with pytest.raises(CheckpointError, match="lost in rounding: use --dtype float32; nothing was written"):
        merged(tmp_path)
    assert merged(tmp_path, dtype="float32").gravity > 0.99


def test_occupied_places_are_left_alone(tmp_path: Path) -> None:
    made(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("keep")
    with pytest.raises(CheckpointError, match="exists already"):
        merged(tmp_path)
    assert (tmp_path / "out" / "mine.txt").read_text() == "keep"


def test_one_model_is_in_memory_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(tmp_path)
    read = one_at_a_time(monkeypatch)
    merged(tmp_path)
    assert len(read) == 2
