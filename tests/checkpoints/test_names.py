"""Every published form of the same tensors loads as the same model; against transformers where it can."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModel

from coterie.checkpoints.checkpoint import Checkpoint
from coterie.checkpoints.directory import load_model, save_model
from coterie.config import CheckpointError, ConfigError
from coterie.nn.forward_context import ForwardContext
from tests.arithmetic import assert_model_close
from tests.families.hf import VOCAB, tiny

Tensors = dict[str, Tensor]
ROUTED = (
    *("qwen3_moe", "mixtral", "olmoe", "deepseek_v2", "deepseek_v3", "llama4_scout", "gpt_oss"),
    *("glm4_moe", "minimax_m2", "qwen2_moe", "granitemoeshared", "flex_olmo", "hunyuan_v1_moe"),
)
IDS = torch.randint(0, VOCAB, (19,), generator=torch.Generator().manual_seed(3))


def rewrite(directory: Path, change: Callable[[Tensors], Tensors]) -> Tensors:
    """Change the tensors of a directory's only file; returns the old ones."""
    file = directory / "model.safetensors"
    before = load_file(file)
    save_file({name: tensor.contiguous() for name, tensor in change(before).items()}, file)
    return before


def renamed(change: Callable[[str], str]) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {change(name): tensor for name, tensor in tensors.items()}


def bare(name: str) -> str:
    return name.removeprefix("model.")


def same_parameters(a: Path, b: Path) -> bool:
    pairs = zip(load_model(a).model.parameters(), load_model(b).model.parameters(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


@pytest.mark.parametrize("name", ROUTED)
def test_experts_saved_as_transformers_holds_them_are_the_same_model(name: str, tmp_path: Path) -> None:
    reference = tiny(name)
    reference.save_pretrained(tmp_path / "hub")
    reference.save_pretrained(tmp_path / "fused", save_original_format=False)
    assert same_parameters(tmp_path / "hub", tmp_path / "fused")
    save_model(tmp_path / "back", load_model(tmp_path / "fused").model)
    hub, back = (load_file(tmp_path / side / "model.safetensors") for side in ("hub", "back"))
    assert hub.keys() == back.keys() and all(torch.equal(hub[key], back[key]) for key in hub)


@pytest.mark.parametrize(
    "change",
    [
        bare,
        lambda name: f"model.{name}",
        lambda name: f"language_model.{name}",
        lambda name: name.replace("model.", "model.language_model."),
        lambda name: name.replace("model.", "transformer."),
    ],
)
def test_names_with_other_prefixes_are_the_same_model(change: Callable[[str], str], tmp_path: Path) -> None:
    reference = tiny("qwen3_moe")
    for side in "ab":
        reference.save_pretrained(tmp_path / side, save_original_format=side == "a")
    rewrite(tmp_path / "b", renamed(change))
    assert same_parameters(tmp_path / "a", tmp_path / "b")


def test_a_decoder_without_a_head_gives_the_vectors_of_transformers_and_no_text(tmp_path: Path) -> None:
    reference = tiny("qwen3", tie_word_embeddings=False)
    reference.save_pretrained(tmp_path)
    rewrite(tmp_path, lambda tensors: {bare(n): t for n, t in tensors.items() if n != "lm_head.weight"})
    theirs = AutoModel.from_pretrained(tmp_path, dtype=torch.float32).eval()
    model = load_model(tmp_path).model
    with torch.no_grad():
        wanted = theirs(IDS[None]).last_hidden_state[0]
        assert_model_close(model.config, model(IDS, ForwardContext.packed([len(IDS)])), wanted, len(IDS))
        with pytest.raises(ConfigError, match="no output head"):
            model.logits(wanted)
    with pytest.raises(ConfigError, match="no output head"):
        save_model(tmp_path / "again", model)


def test_a_lost_head_is_not_an_embedding_model(tmp_path: Path) -> None:
    tiny("qwen3", tie_word_embeddings=False).save_pretrained(tmp_path)
    rewrite(tmp_path, lambda tensors: {n: t for n, t in tensors.items() if n != "lm_head.weight"})
    with pytest.raises(CheckpointError, match=r"missing, the first is 'lm_head.weight'"):
        load_model(tmp_path)


def _twice(tensors: Tensors) -> Tensors:
    gate_up, down = (
        torch.stack([torch.cat([tensors[f"{stem}.{e}.{part}.weight"] for part in parts]) for e in range(8)])
        for stem, parts in (
            ("model.layers.0.mlp.experts", names) for names in (("gate_proj", "up_proj"), ("down_proj",))
        )
    )
    stem = "model.layers.0.mlp.experts"
    return tensors | {f"{stem}.gate_up_proj": gate_up, f"{stem}.down_proj": down}


def _fused(shape: tuple[int, ...]) -> Callable[[Tensors], Tensors]:
    def change(tensors: Tensors) -> Tensors:
        kept = {n: t for n, t in tensors.items() if not re.match(r"model\.layers\.0\.mlp\.experts\.", n)}
        return kept | {"model.layers.0.mlp.experts.gate_up_proj": torch.zeros(shape)}

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_twice, "are the same tensor of the model"),
        (lambda t: t | {"embed_tokens.weight": t["model.embed_tokens.weight"] * 2}, "are the same tensor"),
        (_fused((4, 48, 32)), "asks for 8 experts"),
        (_fused((8, 47, 32)), "as many gate as up rows"),
        (_fused((8, 32, 48)), r"has shape \(16, 48\), the config asks for \(24, 32\)"),
        (lambda t: t | {"model.norm.weight": torch.ones(32, dtype=torch.int8)}, "is stored as int8"),
        (lambda t: t | {"model.norm.weight": torch.ones(32, dtype=torch.bool)}, "is stored as bool"),
        (lambda t: t | {"model.layers.0.other": torch.ones(3)}, "unexpected tensor 'model.layers.0.other'"),
    ],
)
def test_what_would_be_read_wrongly_is_refused(
    change: Callable[[Tensors], Tensors], message: str, tmp_path: Path
) -> None:
    tiny("qwen3_moe", mlp_only_layers=[]).save_pretrained(tmp_path)
    rewrite(tmp_path, change)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_model(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "kinds", [["float64"], ["float16"], ["bfloat16"], ["float64", "float32", "bfloat16"]]
)
def test_weights_of_any_floating_point_type_are_read_and_may_be_mixed(
    kinds: list[str], tmp_path: Path
) -> None:
    tiny("qwen3_moe").save_pretrained(tmp_path)
    types = [getattr(torch, kind) for kind in kinds]
    before = rewrite(
        tmp_path,
        lambda tensors: {n: t.to(types[i % len(types)]) for i, (n, t) in enumerate(sorted(tensors.items()))},
    )
    found = Checkpoint.open(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    for name, tensor in before.items():
        assert found.tensors.dtype(name) == stored[name].dtype
        assert torch.equal(found.tensors.read(name).float(), tensor.to(stored[name].dtype).float())
    model = found.load().model
    assert torch.equal(model.norm.weight, stored["model.norm.weight"].float())


def test_buffers_that_follow_from_the_config_are_not_needed(tmp_path: Path) -> None:
    tiny("llama").save_pretrained(tmp_path)
    stem = "model.layers.0.self_attn.rotary_emb"
    rewrite(tmp_path, lambda t: t | {f"{stem}.inv_freq": torch.ones(4), f"{stem}.cos_cached": torch.ones(4)})
    assert set(load_model(tmp_path).ignored) == {f"{stem}.inv_freq", f"{stem}.cos_cached"}


def _move(index: dict[str, str]) -> None:
    first, last = min(index, key=index.__getitem__), max(index, key=index.__getitem__)
    index[first], index[last] = index[last], index[first]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_move, "holds it"),
        (lambda index: index.update({"model.more": min(index.values())}), "which no file holds"),
        (lambda index: [index.pop(n) for n in list(index) if index[n] == max(index.values())], "missing"),
    ],
)
def test_an_index_that_contradicts_its_files_is_refused(
    change: Callable[[dict[str, str]], object], message: str, tmp_path: Path
) -> None:
    tiny("qwen3").save_pretrained(tmp_path, max_shard_size="20KB")
    file = tmp_path / "model.safetensors.index.json"
    data = json.loads(file.read_text())
    change(data["weight_map"])
    file.write_text(json.dumps(data))
    with pytest.raises(CheckpointError, match=message):
        load_model(tmp_path)


def test_a_single_file_next_to_an_index_of_other_files_is_refused(tmp_path: Path) -> None:
    tiny("qwen3").save_pretrained(tmp_path, max_shard_size="20KB")
    save_file({"x": torch.ones(1)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="may be two models"):
        load_model(tmp_path)
