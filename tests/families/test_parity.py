"""Logits against transformers on its own saved directories, and the way back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from coterie.checkpoints.directory import load_model, save_model
from coterie.checkpoints.tensor_writer import write_model_files
from coterie.families import config_from_hf
from coterie.infer.cache import SequenceCache
from coterie.nn.forward_context import ForwardContext
from coterie.nn.transformer import Transformer
from tests.arithmetic import assert_model_close
from tests.families.hf import _BASE, CONFIGS, VOCAB, randomise, tiny

LENGTHS = (23, 17)


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_logits_equal_transformers_on_packed_documents(name: str, tmp_path: Path) -> None:
    reference = tiny(name)
    reference.save_pretrained(tmp_path)
    model = load_model(tmp_path).model
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


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_shards_come_back_bit_for_bit(name: str, tmp_path: Path) -> None:
    reference = tiny(name)
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
def test_what_we_save_is_what_transformers_saved(name: str, tmp_path: Path) -> None:
    reference = tiny(name)
    reference.save_pretrained(tmp_path / "theirs")
    save_model(tmp_path / "ours", load_model(tmp_path / "theirs").model)
    theirs, ours = (load_file(tmp_path / side / "model.safetensors") for side in ("theirs", "ours"))
    assert theirs.keys() == ours.keys()
    for key, tensor in theirs.items():
        assert torch.equal(tensor, ours[key]), key
    back, info = AutoModelForCausalLM.from_pretrained(
        tmp_path / "ours", output_loading_info=True, dtype=torch.float32
    )
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    for key, tensor in reference.state_dict().items():
        assert torch.equal(tensor, back.state_dict()[key]), key
    written = load_model(tmp_path / "ours").model.config
    original = load_model(tmp_path / "theirs").model.config
    assert written.model_copy(update={"extra": {}}) == original.model_copy(update={"extra": {}})
