"""The tree of a model in memory is that of its files, whatever holds the numbers; and of no other model."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from coterie.adapters.attach import attach
from coterie.adapters.patch import attach_subset
from coterie.checkpoints.checkpoint import Checkpoint
from coterie.checkpoints.directory import save_model
from coterie.checkpoints.tensor_reader import TYPE_NAMES
from coterie.checkpoints.tensor_writer import write_model_files
from coterie.config import AdapterConfig, ExpertSelection, Precision
from coterie.config.expert_place import ExpertPlace
from coterie.families import config_from_hf
from coterie.identity.files import weights_files
from coterie.identity.tensors import stored_weight_tree, weight_tree
from coterie.identity.tree import TreePart
from coterie.nn.transformer import Transformer
from tests.families.hf import _BASE, CONFIGS, randomise, tiny


def model_of(name: str, seed: int = 0) -> Transformer:
    model = Transformer(config_from_hf(_BASE | CONFIGS[name])).eval()
    randomise(model, seed)
    return model


def saved(path: Path, name: str, dtype: str = "bfloat16", seed: int = 0) -> Checkpoint:
    save_model(path, model_of(name, seed), dtype=dtype)
    return Checkpoint.open(path)


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_memory_equals_the_files_in_every_family(name: str, tmp_path: Path) -> None:
    stored = saved(tmp_path / "m", name)
    tree = stored_weight_tree(stored)
    for dtype in ("bfloat16", "float32"):
        held = weight_tree(stored.load(dtype).model, stored)
        assert (held.root, held.notes) == (tree.root, ()), held.differences(tree)
    other = stored.load().model
    with torch.no_grad():  # the least change of one number
        other.embed.weight[3, 1] = torch.nextafter(other.embed.weight[3, 1], torch.tensor(math.inf))
    assert len(tree.differences(weight_tree(other, stored))) == 1


@pytest.mark.parametrize("name", ["qwen3_moe", "gpt_oss", "llama_tied_bias", "gemma4_text_moe"])
def test_the_leaves_are_the_bytes_of_the_files(name: str, tmp_path: Path) -> None:
    """Without any code of coterie: safetensors reads the tensors, hashlib hashes them."""
    saved(tmp_path / "m", name)
    leaves = stored_weight_tree(tmp_path / "m").leaves
    found = {}
    for key, tensor in load_file(tmp_path / "m" / "model.safetensors").items():
        single = {key: tensor}
        if key not in leaves:
            single = {f"{key}[{expert}]": part for expert, part in enumerate(tensor)}
        for label, part in single.items():
            content = part.contiguous().view(torch.uint8).numpy().tobytes()
            found[label] = TYPE_NAMES[part.dtype], tuple(part.shape), hashlib.sha256(content).hexdigest()
    assert {key: (leaf.dtype, leaf.shape, leaf.sha256) for key, leaf in leaves.items()} == found


@pytest.mark.parametrize("name", ["qwen3_moe", "gpt_oss", "deepseek_v3"])
def test_other_shards_have_the_same_tensors_and_other_files(name: str, tmp_path: Path) -> None:
    whole = saved(tmp_path / "m", name)
    (tmp_path / "s").mkdir()
    write_model_files(tmp_path / "s", whole.load("bfloat16").model, shard_bytes=20_000)
    assert len(list((tmp_path / "s").glob("*.safetensors"))) > 3
    assert stored_weight_tree(tmp_path / "s").root == stored_weight_tree(whole).root
    assert weights_files(tmp_path / "s") != weights_files(whole)


def test_the_layout_that_transformers_saves_is_the_same_model(tmp_path: Path) -> None:
    """It may hold the experts of a layer as one tensor; ours are single matrices."""
    tiny("qwen3_moe").save_pretrained(tmp_path / "theirs")
    theirs = Checkpoint.open(tmp_path / "theirs")
    save_model(tmp_path / "ours", theirs.load().model)
    assert stored_weight_tree(tmp_path / "ours").root == stored_weight_tree(theirs).root


@pytest.mark.parametrize("name", ["qwen3_moe", "gpt_oss", "llama4_scout", "granitemoe"])
def test_a_changed_expert_is_found_and_named(name: str, tmp_path: Path) -> None:
    stored = saved(tmp_path / "m", name)
    tree = stored_weight_tree(stored)
    model = stored.load().model
    layer = max(index for index, _ in model.routers())
    experts = model.blocks[layer].ffn.experts
    with torch.no_grad():
        experts.down.weight[1, 2, 0] *= 2
        experts.down.weight[3] = experts.down.weight[3].flip(0)
    held = weight_tree(model, stored)
    assert held.changed(tree) == [TreePart(str(layer), 1), TreePart(str(layer), 3)]
    assert tree.differences(held) == [f"layer {layer}: experts 1 and 3"]
    save_model(tmp_path / "swapped", model, dtype="bfloat16")
    assert tree.differences(stored_weight_tree(tmp_path / "swapped")) == [f"layer {layer}: experts 1 and 3"]


def test_rounded_weights_are_another_model_and_say_so(tmp_path: Path) -> None:
    stored = saved(tmp_path / "m", "qwen3_moe", "float32")
    tree = stored_weight_tree(stored)
    held = weight_tree(stored.load("bfloat16").model, stored)
    assert held.root != tree.root
    assert held.notes == ("weights stored as F32 are held as BF16: the digest is of the rounded numbers",)
    exact = saved(tmp_path / "exact", "qwen3_moe", "bfloat16").load().model
    save_model(tmp_path / "wide", exact, dtype="float32")  # numbers that bfloat16 holds, stored wide
    wide = Checkpoint.open(tmp_path / "wide")
    assert weight_tree(wide.load("bfloat16").model, wide).root == stored_weight_tree(wide).root
    assert stored_weight_tree(wide).root != stored_weight_tree(tmp_path / "exact").root  # the type is part


def test_numbers_that_the_stored_type_cannot_hold_are_not_rounded_away(tmp_path: Path) -> None:
    """Weights that were trained in float32 after loading must not pass for the bfloat16 ones of the file."""
    stored = saved(tmp_path / "m", "llama")
    model = stored.load("float32").model
    with torch.no_grad():
        model.norm.weight[0] *= 1 + 2**-20
    assert stored_weight_tree(stored).differences(weight_tree(model, stored)) == [
        "outside the layers: model.norm.weight"
    ]


@pytest.mark.parametrize("name", ["qwen3_moe", "gpt_oss", "nemotron_h_moe"])
def test_experts_on_disk_are_read_from_where_they_run(name: str, tmp_path: Path) -> None:
    stored = saved(tmp_path / "m", name)
    model = stored.load(experts=ExpertPlace.parse("disk")).model
    assert model.store is not None
    assert weight_tree(model, stored).root == stored_weight_tree(tmp_path / "m").root


@pytest.mark.parametrize("place", ["memory", "disk"])
def test_codes_count_as_the_numbers_they_stand_for(place: str, tmp_path: Path) -> None:
    stored = saved(tmp_path / "m", "qwen3_moe")
    experts = ExpertPlace.parse(place)
    held = weight_tree(stored.load(precision=Precision.parse("experts=int4"), experts=experts).model, stored)
    tree = stored_weight_tree(stored)
    assert {part.expert >= 0 for part in held.changed(tree)} == {True}  # nothing else was rounded
    assert held.notes == ("weights stored as BF16 are in codes: the digest is of the rounded numbers",)
    again = weight_tree(stored.load(precision=Precision.parse("experts=int4")).model, stored)
    other = weight_tree(stored.load(precision=Precision.parse("experts=int8")).model, stored)
    assert again.root == held.root != other.root


def test_a_rounded_head_of_tied_embeddings_is_part_of_the_model(tmp_path: Path) -> None:
    stored = saved(tmp_path / "m", "qwen2_tied")
    model = stored.load(precision=Precision.parse("head=int8")).model
    held, tree = weight_tree(model, stored), stored_weight_tree(stored)
    assert tree.differences(held) == ["outside the layers: coterie:head.weight"]


def test_an_adapter_is_another_model_whose_base_is_known(tmp_path: Path) -> None:
    stored = saved(tmp_path / "m", "qwen3_moe")
    model = stored.load().model
    attach(model, AdapterConfig(rank=2, train={"experts": "lora", "attention": "lora"}))
    roots = {weight_tree(model, stored).root}
    for change in ("lora_B", "alpha"):
        for _, module in model.named_modules():
            if hasattr(module, "lora_B"):
                if change == "alpha":
                    module.alpha *= 2
                else:
                    torch.nn.init.normal_(module.lora_B)
        roots.add(weight_tree(model, stored).root)
    assert len(roots) == 3 and stored_weight_tree(stored).root not in roots
    layer = model.routers()[0][0]
    with torch.no_grad():
        before = weight_tree(model, stored)
        model.blocks[layer].ffn.experts.down.lora_B[2] += 1
    assert before.differences(weight_tree(model, stored)) == [f"layer {layer}: expert 2"]


def test_experts_in_training_count_as_they_are(tmp_path: Path) -> None:
    stored = saved(tmp_path / "m", "qwen3_moe")
    model = stored.load().model
    layer = model.routers()[0][0]
    attach_subset(model, ExpertSelection(experts={layer: (1, 3)}))
    tree = stored_weight_tree(stored)
    assert weight_tree(model, stored).root == tree.root
    with torch.no_grad():
        model.blocks[layer].ffn.experts.down.subset_weight[1] += 1
    assert tree.differences(weight_tree(model, stored)) == [f"layer {layer}: expert 3"]


def test_tensors_that_a_model_only_carries_are_part_of_it(tmp_path: Path) -> None:
    stored = saved(tmp_path / "m", "llama")
    file = tmp_path / "m" / "model.safetensors"
    tensors = load_file(file)
    root = stored_weight_tree(stored).root
    save_file(tensors | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}, file)
    (tmp_path / "m" / "coterie.json").unlink()
    assert stored_weight_tree(tmp_path / "m").root == root  # what follows from the config is none
