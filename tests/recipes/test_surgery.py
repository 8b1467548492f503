"""Surgery by its commands: receipts say what happened, results load, healing brings quality back."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from coterie.checkpoints.directory import load_model, save_model
from coterie.cli.main import main
from coterie.families import config_from_hf
from coterie.nn.transformer import Transformer
from coterie.text.tokenizer import Tokenizer
from tests.adapters.test_attach import IDS, logits
from tests.arithmetic import approx, assert_model_close, mean_sums, model_tolerance
from tests.families.hf import _BASE, CONFIGS, randomise

WORDS = (
    "the cat sees a red house and runs one two three four five six seven dogs find green trees under".split()
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`moe`, `dense` and `other` with one tokenizer, and some text."""
    folder = tmp_path_factory.mktemp("surgery")
    draw = np.random.default_rng(0)
    lines = [" ".join(draw.choice(WORDS, 30)) for _ in range(200)]
    (folder / "text.jsonl").write_text("\n".join(json.dumps({"text": line}) for line in lines))
    tokenizer = Tokenizer.train(lines, vocab_size=300)
    for seed, (name, family) in enumerate(
        {"moe": "qwen3_moe", "dense": "qwen3", "other": "qwen3_moe"}.items()
    ):
        model = Transformer(config_from_hf(_BASE | CONFIGS[family] | {"vocab_size": tokenizer.vocab_size}))
        randomise(model, seed)
        save_model(folder / name, model, tokenizer)
    return folder


def run(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    *words: str,
    code: int = 0,
) -> Any:
    text = ["--data", str(folder / "text.jsonl")]
    monkeypatch.setattr("sys.argv", ["coterie", "surgery", *words, *text])
    with pytest.raises(SystemExit) as stop:
        main()
    found = capsys.readouterr()
    assert (stop.value.code or 0) == code, found.err
    return json.loads(found.out) if "--json" in words else found.out + found.err


@pytest.mark.parametrize(
    ("words", "source"),
    [
        (["upcycle", "--experts", "4"], "dense"),
        (["prune", "--keep", "0.5"], "moe"),
        (["merge-experts", "--keep", "0.5"], "moe"),
        (["densify"], "moe"),
        (["add-expert"], "moe"),
        (["swap-expert", "--layer", "0", "--expert", "1", "--other", "OTHER"], "moe"),
    ],
)
def test_every_operation_writes_a_model_and_its_receipt(
    words: list[str],
    source: str,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = [str(folder / "other") if word == "OTHER" else word for word in words]
    out = tmp_path / "out"
    receipt = run(
        folder, monkeypatch, capsys, words[0], str(folder / source), "-o", str(out), *words[1:], "--json"
    )
    assert receipt == json.loads((out / "surgery.json").read_text())
    loaded = load_model(out, check=True)
    assert receipt["parameters"]["after"]["total"] == sum(p.numel() for p in loaded.model.parameters())
    before = receipt["parameters"]["before"]["total"]
    assert (receipt["parameters"]["after"]["total"] - before) * {
        "upcycle": 1,
        "add-expert": 1,
        "prune": -1,
        "merge-experts": -1,
        "densify": -1,
    }.get(words[0], 0) >= 0
    assert receipt["perplexity"]["before"] > 1 and receipt["perplexity"]["after"] > 1
    if words[0] == "upcycle":
        config, expected = loaded.model.config, logits(load_model(folder / source).model)
        allowed = model_tolerance(config, expected.log_softmax(-1), config.max_positions)
        assert receipt["function"]["after_surgery"]["max_logprob"] <= allowed
        nats_before, nats_after = (math.log(receipt["perplexity"][key]) for key in ("before", "after"))
        assert nats_after == approx(nats_before, *mean_sums(config))
        assert_model_close(config, logits(loaded.model), expected, len(IDS))


def test_healing_brings_a_pruned_model_back_towards_the_original(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    heal = ["--heal", str(folder / "text.jsonl"), "--steps", "12", "--lr", "0.003"]
    words = ["prune", str(folder / "moe"), "-o", str(tmp_path / "out"), "--keep", "0.5", *heal]
    receipt = run(folder, monkeypatch, capsys, *words, "--json")
    assert receipt["healing"]["towards"] == "the original" and receipt["healing"]["steps"] == 12
    assert receipt["healing"]["last_loss"] < 0.8 * receipt["healing"]["first_loss"]
    function = receipt["function"]
    assert function["after_healing"] != function["after_surgery"]
    assert receipt["perplexity"]["healed"] is not None
    words = [*words[:3], str(tmp_path / "r"), *words[4:], "--steps", "2", "--train", "router", "--json"]
    router = run(folder, monkeypatch, capsys, *words)
    before, after = load_model(folder / "moe").model, load_model(tmp_path / "r").model
    assert torch.equal(before.embed.weight, after.embed.weight)
    assert router["healing"]["trained"] == "router"


def test_mistakes_are_one_line(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    moe, out = str(folder / "moe"), str(tmp_path / "out")
    for words, said in (
        (["prune", moe, "-o", moe], "-o is the model itself"),
        (["prune", moe, "-o", out, "--steps", "3"], "give it with --heal"),
        (["prune", moe, "-o", out, "--method", "best"], "unknown method 'best'"),
        (["upcycle", moe, "-o", out], "mixture of experts already"),
    ):
        told = run(folder, monkeypatch, capsys, *words, code=2)
        assert said in told and told.count("coterie:") == 1
    assert not Path(out).exists()
