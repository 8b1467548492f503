"""Llama 4 as it was released: the text model inside, the image encoder carried through."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import Llama4Config, Llama4ForConditionalGeneration

from coterie.checkpoints.directory import load_model, save_model
from coterie.config import CoterieError
from coterie.nn.forward_context import ForwardContext
from tests.arithmetic import assert_model_close
from tests.families.hf import CONFIGS, VOCAB, randomise

_VISION = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
    "image_size": 28, "patch_size": 14, "vision_output_dim": 16, "projector_input_dim": 16,
    "projector_output_dim": 16, "rope_theta": 100.0,
}  # fmt: skip


def whole(path: Path) -> Llama4ForConditionalGeneration:
    text = CONFIGS["llama4_scout"] | {
        "vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4,
        "pad_token_id": 0, "num_key_value_heads": 2, "max_position_embeddings": 256, "bos_token_id": 0,
        "eos_token_id": 0,
    }  # fmt: skip
    config = Llama4Config(text_config=text, vision_config=_VISION)
    config._attn_implementation = "eager"
    model = Llama4ForConditionalGeneration(config).float().eval()
    model.config.text_config._attn_implementation = "eager"
    randomise(model)
    model.save_pretrained(path)
    return model


def test_the_text_model_inside_equals_transformers_and_images_travel(tmp_path: Path) -> None:
    reference = whole(tmp_path / "a")
    model = load_model(tmp_path / "a").model
    ids = torch.randint(0, VOCAB, (23,), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours = model.logits(model(ids, ForwardContext.packed([23])))
        theirs = reference(input_ids=ids[None]).logits[0]
    assert theirs.std() > 0.3
    assert_model_close(model.config, ours, theirs, tokens=23)
    save_model(tmp_path / "b", model)
    before, after = (load_file(tmp_path / side / "model.safetensors") for side in "ab")
    assert before.keys() == after.keys() and any(name.startswith("vision_model.") for name in before)
    assert all(torch.equal(before[name], after[name]) for name in before)
    _, info = Llama4ForConditionalGeneration.from_pretrained(tmp_path / "b", output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    configs = [json.loads((tmp_path / side / "config.json").read_text()) for side in "ab"]
    assert configs[0]["vision_config"] == configs[1]["vision_config"]


def test_images_keep_their_dtype_when_the_text_is_saved_in_another(tmp_path: Path) -> None:
    whole(tmp_path / "a")
    save_model(tmp_path / "b", load_model(tmp_path / "a", dtype="bfloat16").model)
    before, after = (load_file(tmp_path / side / "model.safetensors") for side in "ab")
    name = next(name for name in before if name.startswith("vision_model."))
    assert torch.equal(before[name], after[name]) and after[name].dtype == torch.float32
    assert after["language_model.model.norm.weight"].dtype == torch.bfloat16


def test_a_directory_without_its_image_encoder_is_not_whole(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    whole(tmp_path)
    tensors = {
        k: v for k, v in load_file(tmp_path / "model.safetensors").items() if k.startswith("language_model.")
    }
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(CoterieError, match=r"no tensor beginning with vision_model\."):
        load_model(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["vision_config"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CoterieError, match="'vision_config' is missing"):
        load_model(tmp_path)
