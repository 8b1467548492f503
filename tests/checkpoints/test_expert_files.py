"""Experts read from files answer as those in memory: stored one by one, fused, turned, in codes, in GGUF."""

import copy
import os
from pathlib import Path

import pytest
import torch
from torch import Tensor

from coterie.checkpoints.checkpoint import Checkpoint
from coterie.checkpoints.directory import save_model
from coterie.config import CheckpointError, ConfigError, Precision
from coterie.config.expert_place import ExpertPlace
from coterie.families.registry import config_from_hf
from coterie.nn.forward_context import ForwardContext
from coterie.nn.transformer import Transformer
from tests.families.hf import _BASE, CONFIGS, randomise

IDS = torch.tensor([3, 14, 15, 92, 65, 35, 89, 79, 32, 38])
FAMILIES = ["qwen3_moe", "llama4_scout", "gpt_oss", "nemotron_h_latent"]


def written(path: Path, family: str) -> Path:
    model = Transformer(config_from_hf(copy.deepcopy(_BASE | CONFIGS[family])))
    randomise(model, 0)
    save_model(path / family, model, None, "bfloat16")
    return path / family


@torch.inference_mode()
def answers(model: Transformer) -> Tensor:
    return model.logits(model(IDS, ForwardContext.packed([len(IDS)])))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_logits_with_few_experts_in_memory(tmp_path: Path, family: str) -> None:
    checkpoint = Checkpoint.open(written(tmp_path, family))
    for precision in (None, Precision.parse("experts=int4")):
        whole = checkpoint.load("float32", precision=precision).model
        place = ExpertPlace("disk", room=12_000 if precision is None else 2000)
        few = checkpoint.load("float32", precision=precision, experts=place).model
        assert few.store is not None and few.store.num_places < few.store.num_experts
        # one row more or less may change the last bit of an activation
        torch.testing.assert_close(answers(few), answers(whole), rtol=1e-5, atol=1e-5)
        assert few.store.nbytes <= place.room and few.store.figures[1] >= few.store.num_places
        assert checkpoint.held_bytes("float32", precision or Precision(), place) < checkpoint.held_bytes(
            "float32", precision or Precision()
        )


def test_only_what_is_chosen_is_read(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(written(tmp_path, "llama4_scout"))
    model = checkpoint.load("float32", experts=ExpertPlace("disk", room=1 << 20)).model
    assert model.store is not None and model.store.bytes_read == 0
    layer = model.store.layers[0]
    layer.require([1])
    assert model.store.bytes_read == layer.pool.nbytes // 2  # of bfloat16, for float32 in memory


def test_auto_takes_the_disk_where_memory_ends(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(written(tmp_path, "qwen3_moe"))
    whole = checkpoint.held_bytes("float32", Precision())
    assert checkpoint.load("float32", experts=ExpertPlace("auto", memory=whole)).model.store is None
    store = checkpoint.load("float32", experts=ExpertPlace("auto", memory=whole - 1)).model.store
    assert store is not None and store.num_places == store.num_experts - 1
    with pytest.raises(CheckpointError, match="the memory leaves 0 MiB for experts"):
        checkpoint.load("float32", experts=ExpertPlace("auto", memory=1000))
    dense = Checkpoint.open(written(tmp_path, "llama"))
    assert dense.load("float32", experts=ExpertPlace("auto", memory=1000)).model.store is None
    with pytest.raises(ConfigError, match="has no routed experts"):
        dense.load("float32", experts=ExpertPlace("disk"))


def test_a_file_that_changed_is_not_read(tmp_path: Path) -> None:
    path = written(tmp_path, "qwen3_moe")
    model = Checkpoint.open(path).load("float32", experts=ExpertPlace("disk", room=20_000)).model
    answers(model)
    os.utime(path / "model.safetensors", ns=(1, 1))
    with pytest.raises(CheckpointError, match=r"model\.safetensors: changed since the model was loaded"):
        answers(model)


def test_a_model_with_experts_on_disk_is_not_saved(tmp_path: Path) -> None:
    path = written(tmp_path, "qwen3_moe")
    model = Checkpoint.open(path).load("float32", experts=ExpertPlace("disk", room=20_000)).model
    with pytest.raises(ConfigError, match="saving needs all experts in memory"):
        save_model(tmp_path / "again", model)
