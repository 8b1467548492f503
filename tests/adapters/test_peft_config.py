"""Every field of PEFT's config is used, without effect, or refused by name; saved modules are PEFT's own."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

import coterie
from coterie.adapters.merge import merge_checkpoint
from coterie.adapters.peft_config import USED, WITHOUT_EFFECT, check_settings
from coterie.config import CheckpointError
from tests.arithmetic import assert_model_close

Q: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}
READ: dict[str, dict[str, Any]] = {
    "embedding alone": Q | {"modules_to_save": ["embed_tokens"]},
    "head alone": Q | {"modules_to_save": ["lm_head"]},
    "both": Q | {"modules_to_save": ["embed_tokens", "lm_head"]},
    "embedding, tied again": Q | {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    "factors on the head": Q | {"target_modules": ["q_proj", "lm_head"]},
    "a module with parts": Q | {"modules_to_save": ["mlp"]},
    "norms": Q | {"modules_to_save": ["input_layernorm", "norm"]},
    "dora, rslora, patterns": Q
    | {
        "use_dora": True,
        "use_rslora": True,
        "rank_pattern": {"layers.1.self_attn.q_proj": 8},
        "alpha_pattern": {"v_proj": 3},
    },
    "some layers": Q | {"layers_to_transform": [1]},
    "all but one": Q | {"target_modules": "all-linear", "exclude_modules": [r".*layers\.1.*"]},
}
REFUSED: dict[str, dict[str, Any]] = {
    "target_modules": Q | {"target_modules": ["q_proj", "embed_tokens"]},
    "trainable_token_indices": Q | {"trainable_token_indices": [1, 5]},
    "lora_bias": Q | {"lora_bias": True},
    "bias": Q | {"bias": "lora_only"},
    "init_lora_weights": Q | {"init_lora_weights": "pissa"},
}


def _saved(folder: Path, tied: bool, how: dict[str, Any]) -> torch.Tensor:
    """A base and an adapter of PEFT's in `folder`; the logits of both as PEFT reads them again."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=61, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, tie_word_embeddings=tied, max_position_embeddings=64,
    )  # fmt: skip
    model = LlamaForCausalLM(config).float()
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if "norm" in name:
                tensor.add_(torch.randn_like(tensor) * 0.1)
    model.save_pretrained(folder / "base")
    adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **how))
    with torch.no_grad():
        for tensor in adapted.parameters():
            if tensor.requires_grad:
                tensor.add_(torch.randn_like(tensor) * 0.1)
    adapted.save_pretrained(folder / "adapter")
    again = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
    with torch.no_grad():
        return PeftModel.from_pretrained(again, folder / "adapter").eval()(IDS[None]).logits[0]


IDS = torch.arange(3, 40)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", READ)
def test_what_is_read_is_what_peft_reads(name: str, tied: bool, tmp_path: Path) -> None:
    if "ensure_weight_tying" in READ[name] and not tied:
        pytest.skip("PEFT ties what was tied")
    want = _saved(tmp_path, tied, READ[name])
    model = coterie.load(tmp_path / "base", adapter=tmp_path / "adapter", dtype="float32")
    assert_model_close(model.config, torch.as_tensor(model.logits(IDS.tolist())), want, len(IDS), passes=4)
    merge_checkpoint(tmp_path / "base", tmp_path / "adapter", tmp_path / "out")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    with torch.no_grad():
        found = merged(IDS[None]).logits[0]
    assert_model_close(model.config, found, want, len(IDS), passes=4)


@pytest.mark.parametrize("field", REFUSED)
def test_what_cannot_be_read_is_refused_by_its_name(field: str, tmp_path: Path) -> None:
    _saved(tmp_path, True, REFUSED[field])
    with pytest.raises(CheckpointError, match=field):
        coterie.load(tmp_path / "base", adapter=tmp_path / "adapter")


def test_every_field_of_peft_is_known_or_refused_when_set() -> None:
    fields = {field.name for field in dataclasses.fields(LoraConfig)}
    for name in fields - USED - WITHOUT_EFFECT | {"of_a_later_version"}:
        with pytest.raises(CheckpointError, match=name):
            check_settings({"peft_type": "LORA", name: {"set": True}}, "here")
    assert fields >= WITHOUT_EFFECT


def test_a_file_without_an_announced_tensor_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    _saved(tmp_path, False, Q | {"modules_to_save": ["lm_head"]})
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    whole = load_file(file)
    for lost, said in (("layers.1.self_attn.q_proj.lora", "target_modules"), ("lm_head", "modules_to_save")):
        save_file({key: tensor for key, tensor in whole.items() if lost not in key}, file)
        with pytest.raises(CheckpointError, match=said):
            coterie.load(tmp_path / "base", adapter=tmp_path / "adapter")
