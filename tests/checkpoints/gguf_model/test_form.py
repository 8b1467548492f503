"""A GGUF file wherever a model's directory is taken: opened, described, converted, told apart."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from coterie.checkpoints.checkpoint import Checkpoint
from coterie.checkpoints.convert import convert_directory
from coterie.checkpoints.fingerprint import weights_fingerprint
from coterie.checkpoints.gguf_file.tensors import GgufTensors
from coterie.checkpoints.gguf_model.form import GgufModel
from coterie.checkpoints.inspect import inspect_model
from coterie.config import CheckpointError
from coterie.gguf.export import export_gguf
from tests.checkpoints.gguf_model.conftest import Exported
from tests.gguf.models import KINDS
from tests.gguf.rewritten import rewrite


def test_a_file_becomes_a_directory(exported: Exported, tmp_path: Path) -> None:
    """The same tensors, tokenizer, template and stops as in the directory that the file was written from."""
    directory, file = exported("qwen3_moe")
    receipt = convert_directory(file, tmp_path / "out")
    assert receipt.lossless and receipt.family == ("qwen3_moe", "qwen3_moe") and not receipt.left_out
    assert any(
        line.startswith("made from the file's keys: config.json, chat_template") for line in receipt.changes
    )
    wanted, found = Checkpoint.open(directory), Checkpoint.open(tmp_path / "out")
    assert set(found.tensors) == set(wanted.tensors)
    for name in wanted.tensors:
        assert torch.equal(found.tensors.read(name), wanted.tensors.read(name)), name
    assert found.tokenizer is not None and wanted.tokenizer is not None
    assert found.tokenizer.sha256 == wanted.tokenizer.sha256  # the export puts the whole file inside
    assert found.tokenizer.chat_template == wanted.tokenizer.chat_template
    assert found.stops == wanted.stops
    raw = json.loads((tmp_path / "out" / "config.json").read_text())
    assert raw["architectures"] == ["Qwen3MoeForCausalLM"] and raw["eos_token_id"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.startswith("mistral4")])
def test_transformers_answers_alike_from_the_directory_of_a_file(
    kind: str, exported: Exported, tmp_path: Path
) -> None:
    """config.json made from the keys, read by the library whose model was written."""
    from transformers import AutoModelForCausalLM

    directory, file = exported(kind)
    convert_directory(file, tmp_path / "out", dtype="float32")
    ids = torch.randint(9, 300, (1, 60), generator=torch.Generator().manual_seed(0))
    found = []
    for path in (directory, tmp_path / "out"):
        model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager")
        with torch.no_grad():
            found.append(model.eval()(ids).logits)
    # Gemma's norms are in the file plus 1, and some gains in 32 bits.
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    "kind, quant, kept",
    [
        ("llama", "bf16", torch.bfloat16),
        ("llama", "f16", torch.float16),
        ("llama", "q8_0", torch.bfloat16),
        ("granite_hybrid_dense", "bf16", torch.bfloat16),
    ],
)
def test_the_type_to_keep(
    kind: str, quant: str, kept: torch.dtype, exported: Exported, tmp_path: Path
) -> None:
    """Norms, decays and convolutions are float32 in every file: they do not tell the model's type."""
    export_gguf(exported(kind)[0], tmp_path / "m.gguf", quant)
    checkpoint = Checkpoint.open(tmp_path / "m.gguf")
    assert checkpoint.kept_dtype == kept and checkpoint.stored_dtype == torch.float32
    assert checkpoint.quantised == (quant == "q8_0")


def test_inspecting_reads_no_weights(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GgufTensors, "read", lambda *_: pytest.fail("a tensor was read"))
    monkeypatch.setattr(GgufTensors, "read_part", lambda *_: pytest.fail("a tensor was read"))
    found = inspect_model(str(exported("deepseek_v2")[1])).directory
    assert found is not None and found.gguf is not None and found.quantised is None
    assert (found.gguf.architecture, found.gguf.split, found.gguf.files) == ("deepseek2", "qwen2", 1)
    assert sum(found.gguf.tensors.values()) > 30 and set(found.gguf.tensors) == {"F32"}
    assert found.stored.bytes_by_type is not None and set(found.stored.bytes_by_type) == {"F32"}
    assert found.tokenizer is not None and set(found.tokenizer.stops) == {"<|endoftext|>", "<|im_end|>"}
    assert set(found.tokenizer.stops["<|im_end|>"]) == {"m.gguf"}


def test_an_unknown_split_is_refused_by_name_and_inspected(exported: Exported, tmp_path: Path) -> None:
    keys = {"tokenizer.ggml.pre": "gpt-5", "tokenizer.huggingface.json": None}
    file = rewrite(exported("llama")[1], tmp_path / "m.gguf", keys)
    with pytest.raises(
        CheckpointError, match=r"splits text as 'gpt-5', which is not known here .*--tokenizer DIR"
    ):
        Checkpoint.open(file).load()
    found = inspect_model(str(file)).directory
    assert found is not None and found.tokenizer is None and "gpt-5" in found.notes[0]


def test_a_tokenizer_and_keys_from_outside(exported: Exported, tmp_path: Path) -> None:
    directory, written = exported("llama")
    keys = {"tokenizer.ggml.pre": "gpt-5", "llama.logit_scale": 0.25, "tokenizer.huggingface.json": None}
    file = rewrite(written, tmp_path / "m.gguf", keys)
    model = GgufModel(file, {"llama.logit_scale": None, "llama.context_length": 77}, directory)
    checkpoint = Checkpoint(file, "m.gguf", model)
    assert checkpoint.config.max_positions == 77 and checkpoint.load().tokenizer is not None
    with pytest.raises(CheckpointError, match=r"'llama\.logit_scale' is 0\.25, which"):
        _ = Checkpoint.open(file).config


def test_a_changed_number_changes_the_fingerprint(exported: Exported, tmp_path: Path) -> None:
    file = exported("llama")[1]

    def turn(tensors: dict[str, Any]) -> None:
        tensors["output_norm.weight"] = np.nextafter(tensors["output_norm.weight"], np.float32(9))

    same = rewrite(file, tmp_path / "same.gguf", {"general.name": "another"})
    changed = rewrite(file, tmp_path / "changed.gguf", change=turn)
    assert weights_fingerprint(same) == weights_fingerprint(file) != weights_fingerprint(changed)


def test_files_that_are_no_model(exported: Exported, tmp_path: Path) -> None:
    (tmp_path / "text.gguf").write_text("a model, honestly")
    with pytest.raises(CheckpointError, match=r"text\.gguf: is not a whole GGUF file"):
        _ = Checkpoint.open(tmp_path / "text.gguf").config
    (tmp_path / "text.txt").write_text("a model, honestly")
    with pytest.raises(CheckpointError, match="is neither a checkpoint's directory nor a GGUF file"):
        Checkpoint.open(tmp_path / "text.txt")
    file = exported("llama")[1]
    shutil.copyfile(file, tmp_path / "model")  # the hub's cache knows files by their hash alone
    assert Checkpoint.open(tmp_path / "model").config.family == "llama"
