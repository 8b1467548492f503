"""The handle: every property agrees with the files, and each file is opened once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from coterie.checkpoints.checkpoint import Checkpoint
from coterie.checkpoints.commit import read_manifest, require_free
from coterie.checkpoints.convert import convert_directory
from coterie.checkpoints.directory import save_model
from coterie.checkpoints.locate import weight_files
from coterie.config import CheckpointError
from coterie.proof.texts import TEXTS
from coterie.text.tokenizer import Tokenizer
from tests.checkpoints.opens import count_opens, of_directory
from tests.checkpoints.test_convert import make


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(TEXTS, 300)


@pytest.fixture
def saved(tmp_path: Path, tokenizer: Tokenizer) -> Path:
    model = make("qwen3_moe", vocab_size=tokenizer.vocab_size)
    save_model(tmp_path / "model", model, tokenizer, "bfloat16", {"step": 7}, probes=True)
    return tmp_path / "model"


def test_every_property_is_that_of_the_files(saved: Path, tokenizer: Tokenizer) -> None:
    checkpoint = Checkpoint.open(str(saved))
    assert (checkpoint.path, checkpoint.name) == (saved, str(saved))
    assert checkpoint.config.vocab_size == tokenizer.vocab_size
    assert "model.embed_tokens.weight" in checkpoint.tensors
    assert checkpoint.manifest == read_manifest(saved)
    assert checkpoint.travelling_manifest() == {"step": 7}
    assert checkpoint.tokenizer is not None and checkpoint.tokenizer.sha256 == tokenizer.sha256
    assert checkpoint.probes is not None and checkpoint.probes.num_positions > 0
    assert checkpoint.stops == tuple(sorted(tokenizer.stop_ids))
    assert not checkpoint.quantised
    assert checkpoint.stored_dtype == checkpoint.kept_dtype == torch.bfloat16
    loaded = checkpoint.load("bfloat16", check=True)
    assert loaded.checkpoint is checkpoint and loaded.tokenizer is checkpoint.tokenizer
    assert Checkpoint.open(checkpoint) is checkpoint


@pytest.mark.parametrize(("ends", "more"), [(9, {9}), ([9, 8], {8, 9}), (None, set())])
def test_stops_join_the_tokenizer_and_the_generation_config(
    saved: Path, tokenizer: Tokenizer, ends: object, more: set[int]
) -> None:
    (saved / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
    assert Checkpoint.open(saved).stops == tuple(sorted(tokenizer.stop_ids | more))


def test_a_directory_of_other_origin_has_fewer_properties(tmp_path: Path) -> None:
    save_model(tmp_path / "model", make("llama_tied_bias"))
    (tmp_path / "model" / "coterie.json").unlink()
    checkpoint = Checkpoint.open(tmp_path / "model")
    assert checkpoint.tokenizer is None and checkpoint.probes is None
    assert checkpoint.stops == (0,)  # of config.json, because nothing else names one
    assert checkpoint.manifest == {} and checkpoint.travelling_manifest() == {}
    checkpoint.verify()
    with pytest.raises(CheckpointError, match="holds no probes to check"):
        checkpoint.load(check=True)


def test_verification_finds_what_changed_after_the_commit(saved: Path) -> None:
    file = saved / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    checkpoint = Checkpoint.open(saved)
    with pytest.raises(CheckpointError, match="SHA-256 of samples differs"):
        checkpoint.load()
    with pytest.raises(CheckpointError, match="its SHA-256 differs"):
        checkpoint.verify()
    (saved / "coterie.json").write_text(
        (saved / "coterie.json").read_text().replace('"step": 7', '"step": 8')
    )
    with pytest.raises(CheckpointError, match="does not match its own hash"):
        Checkpoint.open(saved).load()


def test_loading_opens_each_file_once(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = count_opens(monkeypatch)
    checkpoint = Checkpoint.open(saved)
    checkpoint.load(check=True)
    checkpoint.load("bfloat16")
    checkpoint.verify()
    assert (
        checkpoint.stops
        and checkpoint.config
        and checkpoint.stored_dtype
        and checkpoint.travelling_manifest()
    )
    found = of_directory(opened, saved)
    assert {"config.json", "model.safetensors", "coterie.json"} <= set(found)
    assert set(found.values()) == {1}, found


def test_a_conversion_opens_its_source_once_and_its_result_once(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = count_opens(monkeypatch)
    convert_directory(saved, tmp_path / "out", dtype="float32")
    counts = {path: count for path, count in opened.items() if path.is_relative_to(tmp_path)}
    assert of_directory(opened, saved)["model.safetensors"] == 1
    assert sum(path.name == "model.safetensors" for path in counts) == 2
    assert set(counts.values()) == {1}, counts


def test_an_output_must_be_free(tmp_path: Path) -> None:
    require_free(tmp_path / "new")
    (tmp_path / "empty").mkdir()
    require_free(tmp_path / "empty")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "coterie.json").write_text("{}")
    require_free(tmp_path / "full", replaces=("coterie.json", "a checkpoint"))
    with pytest.raises(CheckpointError, match="full: exists already; choose another --out or remove it"):
        require_free(tmp_path / "full", "--out")
    with pytest.raises(CheckpointError, match="exists and is not an adapter"):
        require_free(tmp_path / "full", replaces=("adapter_config.json", "an adapter"))


def test_mistrals_own_form_is_refused_with_what_to_fetch(tmp_path: Path) -> None:
    (tmp_path / "params.json").write_text("{}")
    (tmp_path / "consolidated.safetensors").write_bytes(b"")
    for config in (False, True):
        if config:
            (tmp_path / "config.json").write_text("{}")
        with pytest.raises(CheckpointError, match=r"Mistral's own form .*; fetch config.json") as caught:
            weight_files(tmp_path) if config else Checkpoint.open(tmp_path).raw_config
        assert "\n" not in str(caught.value)
