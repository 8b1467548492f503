"""Quantising as a whole: the receipt's figures, what the result answers, and what leaves nothing behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import coterie
from coterie.checkpoints.checkpoint import Checkpoint
from coterie.checkpoints.directory import save_model
from coterie.checkpoints.tensor_writer import write_shards
from coterie.config import CheckpointError, ConfigError, Precision
from coterie.families import config_from_hf
from coterie.nn.transformer import Transformer
from coterie.proof.difference import difference
from coterie.recipes import quantise
from coterie.recipes.measure import Measure
from coterie.recipes.quantise import quantise_checkpoint
from coterie.text.tokenizer import Tokenizer
from tests.cli.support import call
from tests.families.hf import _BASE, CONFIGS, randomise

TABLE = "int4,attention=int8,block=8"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`source`, a model with a tokenizer in bfloat16, and some text."""
    folder = tmp_path_factory.mktemp("quantise")
    texts = ["a small fox sat on a warm stone and looked at the sea " * 3] * 8
    (folder / "text.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    tokenizer = Tokenizer.train(texts, vocab_size=300)
    shape = {"vocab_size": tokenizer.vocab_size, "num_hidden_layers": 2}
    model = Transformer(config_from_hf(_BASE | CONFIGS["qwen3_moe"] | shape))
    randomise(model, 0)
    save_model(folder / "source", model, tokenizer, dtype="bfloat16")
    return folder


def test_the_receipt_says_what_was_held_and_lost(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = folder / "source", folder / "out"
    given = ("--quant", TABLE, "--data", str(folder / "text.jsonl"))
    call("quantise", str(source), "-o", str(out), *given, "--json")
    receipt = json.loads(capsys.readouterr().out)
    assert receipt == json.loads((out / "receipt.json").read_text())
    assert receipt["quant"] == str(Precision.parse(TABLE))
    assert receipt["classes"]["attention"] == ["compressed-tensors, 8 bits in groups of 8"]
    assert receipt["classes"]["experts"] == ["compressed-tensors, 4 bits in groups of 8"]
    assert receipt["classes"]["embedding"] == ["bfloat16"]
    sizes = [sum(file.stat().st_size for file in path.glob("*.safetensors")) for path in (source, out)]
    before, after = receipt["bytes"]["before"], receipt["bytes"]["after"]
    assert before < sizes[0] and after < sizes[1] and 0.5 < after / before < 0.8
    assert receipt["rounding"]["matrices"] == 35 and 0.01 < receipt["rounding"]["relative_rms"] < 0.1
    # The figures are those of the model that is loaded in the same form, and of the original.
    exact = coterie.load(source, dtype="float32")
    held = coterie.load(source, dtype="float32", quant=TABLE)
    measure = Measure.of([str(folder / "text.jsonl")], exact.config, exact.tokenizer)
    apart = difference(measure.record(exact.model), measure.record(held.model))
    assert receipt["function"]["kl"] == pytest.approx(apart.kl, rel=1e-3) and apart.kl
    assert receipt["function"]["top1"] == apart.top1
    for side, model in {"before": exact, "after": held}.items():
        assert receipt["perplexity"][side] == pytest.approx(measure.perplexity(model.model), rel=1e-4)
    assert receipt["perplexity_tokens"] > 100
    # What was written answers as it did then, and as the original held so does.
    ids = list(range(1, 20))
    coterie.load(out, check=True)
    assert torch.equal(coterie.load(out, dtype="float32", quant=TABLE).logits(ids), held.logits(ids))
    assert Checkpoint.open(out).manifest["quantised_from"]["path"] == str(source)


def test_nothing_is_measured_where_it_is_not_wanted(folder: Path) -> None:
    receipt = quantise_checkpoint(folder / "source", folder / "bare", Precision.parse(TABLE), outputs=False)
    assert receipt.function is None and receipt.perplexity is None
    assert Checkpoint.open(folder / "bare").probes is None
    with pytest.raises(CheckpointError, match=r"stored quantised .*; give the original, so that nothing is"):
        quantise_checkpoint(folder / "bare", folder / "twice", Precision.parse(TABLE))
    with pytest.raises(CheckpointError, match="exists already; choose another -o"):
        quantise_checkpoint(folder / "source", folder / "bare", Precision.parse(TABLE))
    with pytest.raises(ConfigError, match="stored puts no weight in codes"):
        quantise_checkpoint(folder / "source", folder / "none", Precision())
    assert not (folder / "twice").exists() and not (folder / "none").exists()


def test_a_file_that_is_not_what_was_made_is_not_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def damaging(directory: Path, *given: object, **more: object) -> None:
        write_shards(directory, *given, **more)  # type: ignore[arg-type]
        file = directory / "model.safetensors"
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(bytes(content))

    monkeypatch.setattr(quantise, "write_shards", damaging)
    with pytest.raises(CheckpointError, match="was not written as it was made; nothing was kept"):
        quantise_checkpoint(folder / "source", folder / "damaged", Precision.parse(TABLE), outputs=False)
    assert [path.name for path in folder.iterdir() if path.name.startswith("damaged")] == []
