"""Logits against transformers on its own saved directories, and the way back."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from coterie.checkpoints.checkpoint import Checkpoint
from coterie.checkpoints.directory import load_model, save_model
from coterie.checkpoints.tensor_writer import write_model_files
from coterie.families import config_from_hf
from coterie.infer.cache import SequenceCache
from coterie.nn.forward_context import ForwardContext
from coterie.nn.transformer import Transformer
from tests.arithmetic import assert_model_close
from tests.families.hf import _BASE, CONFIGS, VOCAB, randomise, tiny

LENGTHS = (23, 17)
# One of each way in which tensors lie in a file: dense and tied, experts one by one and stacked, gate and up
# in one tensor or in turn, latents, an input for each layer, layers with a state, blocks of one part.
SHARDED = {
    "llama",
    "mixtral",
    "qwen3_moe",
    "llama4_scout",
    "gpt_oss",
    "deepseek_v3",
    "gemma4_text",
    "qwen3_next",
}
SHARDED |= {"lfm2_moe", "granitemoehybrid", "nemotron_h_moe"}


Saved = Callable[[str], tuple[Any, Path]]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """By name, a randomised transformers model and the directory that it has saved, which stays as it is."""

    @cache
    def made(name: str) -> tuple[Any, Path]:
        reference, directory = tiny(name), tmp_path_factory.mktemp("theirs")
        reference.save_pretrained(directory)
        return reference, directory

    return made


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_logits_equal_transformers_on_packed_documents(name: str, saved: Saved) -> None:
    reference, directory = saved(name)
    model = load_model(directory).model
    ids = torch.randint(0, VOCAB, (sum(LENGTHS),), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours = model.logits(model(ids, ForwardContext.packed(LENGTHS)))
        theirs = torch.cat([reference(part[None]).logits[0] for part in ids.split(LENGTHS)])
    assert theirs.std() > 0.3
    assert_model_close(model.config, ours, theirs, tokens=max(LENGTHS))


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_decoding_with_a_cache_equals_the_whole_pass(name: str) -> None:
    model = Transformer(config_from_hf(_BASE | CONFIGS[name])).eval()
    randomise(model)
    ids = torch.randint(0, VOCAB, (max(LENGTHS),), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        whole = model.logits(model(ids, ForwardContext.packed([len(ids)])))
        cache, parts, start = SequenceCache(model.config), [], 0
        for size in (9, 1, 1, len(ids) - 11):
            positions = torch.arange(start, start + size)
            context = ForwardContext(positions, (size,), planned=(len(ids),))
            parts.append(model(ids[start : start + size], context, [cache]))
            start += size
        assert_model_close(model.config, model.logits(torch.cat(parts)), whole, tokens=len(ids))


@pytest.mark.parametrize(
    "name",
    [name if name in SHARDED else pytest.param(name, marks=pytest.mark.slow) for name in sorted(CONFIGS)],
)
def test_shards_come_back_bit_for_bit(name: str, saved: Saved, tmp_path: Path) -> None:
    reference, _ = saved(name)
    reference.save_pretrained(tmp_path / "theirs", max_shard_size="20KB")
    model = load_model(tmp_path / "theirs").model
    (tmp_path / "ours").mkdir()
    write_model_files(tmp_path / "ours", model, shard_bytes=15_000)
    found = []
    for side in ("theirs", "ours"):
        files = sorted((tmp_path / side).glob("*.safetensors"))
        assert len(files) > 2 and (tmp_path / side / "model.safetensors.index.json").is_file()
        found.append({key: tensor for file in files for key, tensor in load_file(file).items()})
    theirs, ours = found
    assert theirs.keys() == ours.keys() and all(torch.equal(theirs[key], ours[key]) for key in theirs)
    again = load_model(tmp_path / "ours").model
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_what_we_save_is_what_transformers_saved(name: str, saved: Saved, tmp_path: Path) -> None:
    reference, directory = saved(name)
    original = load_model(directory).model
    save_model(tmp_path / "ours", original)
    theirs, ours = (load_file(path / "model.safetensors") for path in (directory, tmp_path / "ours"))
    assert theirs.keys() == ours.keys()
    for key, tensor in theirs.items():
        assert torch.equal(tensor, ours[key]), key
    back, info = AutoModelForCausalLM.from_pretrained(
        tmp_path / "ours", output_loading_info=True, dtype=torch.float32
    )
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    for key, tensor in reference.state_dict().items():
        assert torch.equal(tensor, back.state_dict()[key]), key
    written = Checkpoint.open(tmp_path / "ours").config
    assert written.model_copy(update={"extra": {}}) == original.config.model_copy(update={"extra": {}})
