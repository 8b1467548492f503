"""What can be done with a model here, and why not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from coterie.adapters.attach import attach
from coterie.adapters.files import save_adapter
from coterie.checkpoints import running_dtype
from coterie.checkpoints.directory import load_model, save_model
from coterie.config import AdapterConfig
from coterie.library.models import ModelEntry, examine
from coterie.library.places import FoundModel
from coterie.plan.counts import count_parameters, memory
from coterie.plan.tuning import PROCESS_BYTES
from coterie.text.tokenizer import Tokenizer
from tests.proof.test_records import make

MANY = 10**12


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole tiny model with a tokenizer."""
    folder = tmp_path_factory.mktemp("models") / "m"
    save_model(folder, make(vocab_size=320), Tokenizer.train(["some words"], 300), dtype=torch.bfloat16)
    return folder


def entry(path: Path, limit: int = MANY) -> ModelEntry:
    return examine(FoundModel("m", path, 1), limit)


def copy(source: Path, target: Path, *without: str) -> Path:
    target.mkdir()
    for path in source.iterdir():
        if path.name not in without and path.is_file():
            (target / path.name).write_bytes(path.read_bytes())
    return target


def test_a_whole_model(folder: Path, monkeypatch: pytest.MonkeyPatch):
    from coterie.checkpoints.tensor_reader import FileBytes

    monkeypatch.setattr(FileBytes, "tensor", None)  # no weight is read
    monkeypatch.setattr(FileBytes, "fill", None)
    found, counts = entry(folder), count_parameters(make(vocab_size=320).config)
    assert (found.family, found.stored) == ("qwen3_moe", "BF16")
    assert (found.total, found.active) == (counts.total, counts.active_all)
    assert [str(use) for use in (found.load, found.tune, found.serve)] == ["yes"] * 3
    assert found.load.words == found.tune.words == found.serve.words == ""
    assert json.loads(json.dumps(found.to_dict()))["load"] == {"possible": True, "words": ""}


def test_memory_decides(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(running_dtype, "choose_dtype", lambda requested, device: torch.float32)
    config = make(vocab_size=320).config
    wide = PROCESS_BYTES + memory(config, "inference", 4).total
    narrow = PROCESS_BYTES + memory(config, "inference", 2).total
    assert entry(folder, wide).load.words == ""
    assert entry(folder, wide - 1).load.words == "--dtype bfloat16"
    monkeypatch.setattr(running_dtype, "choose_dtype", lambda requested, device: torch.bfloat16)
    assert entry(folder, wide - 1).load.words == entry(folder, narrow).load.words == ""
    found = entry(folder, narrow - 1)
    assert not (found.load.possible or found.tune.possible or found.serve.possible)
    assert found.load.words.startswith("needs 450 MB as bfloat16, and there are ")
    assert entry(folder, narrow).load.possible and not entry(folder, narrow).serve.possible
    tight = entry(folder, PROCESS_BYTES + 30_000_000).tune
    assert tight.possible and tight.words.startswith("batch_rows=2 accumulate=2")


def test_what_is_missing_is_named(folder: Path, tmp_path: Path):
    found = entry(copy(folder, tmp_path / "a", "tokenizer.json"))
    assert found.load.possible and found.serve.words == found.tune.words == "has no tokenizer.json"
    found = entry(copy(folder, tmp_path / "b", "model.safetensors"))
    assert found.family == "qwen3_moe" and found.total is not None
    assert found.load.words.startswith("has no model.safetensors and no index of shards")
    broken = copy(folder, tmp_path / "c")
    (broken / "model.safetensors").write_bytes(b"\0" * 100)
    assert not entry(broken).load.possible and "model.safetensors" in entry(broken).load.words


def test_a_tensor_that_no_file_holds(folder: Path, tmp_path: Path):
    from safetensors.torch import load_file, save_file

    changed = copy(folder, tmp_path / "m")
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.self_attn.q_proj.weight"]
    save_file(tensors, changed / "model.safetensors")
    reason = "the weights lack the tensor 'model.layers.1.self_attn.q_proj.weight'; fetch them again"
    assert entry(changed).load.words == reason


def test_other_families_and_damage(folder: Path, tmp_path: Path):
    other = copy(folder, tmp_path / "other")
    (other / "config.json").write_text('{"model_type": "mamba9"}')
    found = entry(other)
    assert found.family is None and found.serve.words.startswith("model_type 'mamba9' is not supported")
    (other / "config.json").write_text('{"model_type": "qwen3_mo"}')
    assert entry(other).load.words == "model_type 'qwen3_mo' is not supported"
    (other / "config.json").write_text("[")
    assert entry(other).family is None and not entry(other).load.possible
    lost = examine(FoundModel("x", None, 3, problem="holds no revision"), MANY)
    assert lost.load.words == "holds no revision" and lost.size == 3


def test_an_adapter_names_its_base(folder: Path, tmp_path: Path):
    model = load_model(folder, "float32").model
    attach(model, AdapterConfig(rank=2))
    save_adapter(tmp_path / "adapter", model, folder, probes=False)
    found = entry(tmp_path / "adapter")
    assert found.family == "adapter" and not found.load.possible
    assert found.load.words == f"is made for {folder}; load that with this as --adapter"


def test_small_files_alone_in_the_cache(folder: Path, tmp_path: Path):
    commit = "a" * 40
    (tmp_path / "models--o--n" / "snapshots").mkdir(parents=True)
    part = copy(folder, tmp_path / "models--o--n" / "snapshots" / commit, "model.safetensors")
    assert entry(part).load.words == f"holds small files alone; run coterie pull o/n@{commit} for the weights"
    (part / "model.safetensors.index.json").write_text('{"weight_map": {"a": "x.safetensors"}}')
    words = f"names 'x.safetensors', which is not in the directory; run coterie pull o/n@{commit}"
    assert words in entry(part).load.words
