"""Surgery by its commands: receipts say what happened, results load, healing brings quality back."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText

from coterie.checkpoints.directory import load_model, save_model
from coterie.checkpoints.tensor_reader import read_header
from coterie.cli.main import main
from coterie.config import CheckpointError
from coterie.families import config_from_hf
from coterie.nn.transformer import Transformer
from coterie.recipes import surgery
from coterie.surgery import common as surgery_common
from coterie.surgery.receipt import HealingRecord
from coterie.surgery.upcycle import upcycle
from coterie.text.tokenizer import Tokenizer
from tests.adapters.test_attach import IDS, logits
from tests.arithmetic import approx, assert_model_close, mean_sums, model_tolerance
from tests.checkpoints.alive import one_at_a_time
from tests.families.hf import _BASE, CONFIGS, randomise
from tests.families.test_wrapper import edit, stored, whole

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
    save_model(folder / "copies", upcycle(load_model(folder / "dense").model, 4), tokenizer)
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
        (["densify"], "copies"),
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
    if source == "copies":
        assert receipt["details"]["lost_share"] == {} and len(receipt["details"]["exact_layers"]) == 4
        dense = load_model(folder / "dense").model
        assert all(
            torch.equal(ours, theirs)
            for ours, theirs in zip(loaded.model.parameters(), dense.parameters(), strict=True)
        )
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


def test_the_teacher_of_healing_stays_in_the_type_that_it_is_stored_in(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, seen = load_model(folder / "dense"), []
    save_model(tmp_path / "half", loaded.model, loaded.tokenizer, dtype=torch.bfloat16)

    def healed(model: Transformer, teacher: Transformer, *_: Any) -> HealingRecord:
        seen.extend({str(p.dtype) for p in one.parameters()} for one in (model, teacher))
        assert torch.equal(logits(teacher), logits(load_model(tmp_path / "half", dtype="float32").model))
        return HealingRecord(1, 1, "the original", "all", 0.1, 1.0, 1.0)

    monkeypatch.setattr(surgery, "heal", healed)
    how = replace(
        operation("upcycle", num_experts=4, top_k=2),
        heal_data=(str(folder / "text.jsonl"),),
        healing=surgery.Healing(1),
    )
    receipt = surgery.operate(tmp_path / "half", tmp_path / "out", how)
    assert seen == [{"torch.float32"}, {"torch.bfloat16"}]
    assert receipt.function["after_surgery"].max_logprob < 1e-4


def test_a_model_around_a_text_model_is_upcycled_with_what_is_around_it(tmp_path: Path) -> None:
    reference = whole("qwen3_5", tmp_path / "dense")
    further = {"mtp.fc.weight": torch.ones(2, 3)}
    edit(tmp_path / "dense", stored(tmp_path / "dense") | further)
    config = json.loads((tmp_path / "dense" / "config.json").read_text())
    edit(tmp_path / "dense", text_config=config["text_config"] | {"mtp_num_hidden_layers": 1})
    receipt = surgery.operate(
        tmp_path / "dense", tmp_path / "moe", operation("upcycle", num_experts=4, top_k=2)
    )
    assert receipt.family.after == "qwen3_5_moe" and receipt.lost == ["the layers for multi-token prediction"]
    written = json.loads((tmp_path / "moe" / "config.json").read_text())
    assert written["text_config"]["model_type"] == "qwen3_5_moe_text"
    assert written["text_config"]["mtp_num_hidden_layers"] == 0
    assert written["vision_config"] | {"model_type": 0} == config["vision_config"] | {"model_type": 0}
    assert written["vision_config"]["model_type"] == "qwen3_5_moe_vision"
    theirs, kept = AutoModelForImageTextToText.from_pretrained(tmp_path / "moe", dtype=torch.float32), 0
    for name, tensor in reference.model.visual.state_dict().items():
        assert torch.equal(theirs.model.visual.state_dict()[name], tensor)
        kept += 1
    assert kept and not any(name.startswith("mtp.") for name in stored(tmp_path / "moe"))
    with torch.no_grad():
        expected, found = (model.eval()(IDS[None]).logits[0] for model in (reference, theirs))
    config = load_model(tmp_path / "dense").model.config
    assert_model_close(config, found.log_softmax(-1), expected.log_softmax(-1), len(IDS))
    surgery.operate(tmp_path / "moe", tmp_path / "back", operation("densify", width=None))
    before, after = stored(tmp_path / "dense"), stored(tmp_path / "back")
    assert before.keys() - after.keys() == further.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in after.items())


def operation(kind: str = "prune", **settings: Any) -> surgery.Operation:
    return surgery.Operation(kind, settings or {"keep": 0.5}, data=())


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
@pytest.mark.parametrize("replaced", [False, True])
def test_nothing_is_left_of_an_operation_that_stops_half_way(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, replaced: bool
) -> None:
    """`replaced`: an earlier result is in the way, and stays."""
    out = tmp_path / "out"
    if replaced:
        shutil.copytree(folder / "other", out)
    before = sorted(path.name for path in tmp_path.rglob("*"))
    combine, done = surgery_common.combine_experts, [0]

    def stops(*arguments: Any) -> None:
        done[0] += 1
        if done[0] == 2:  # the first layer is made, and part of the file is written
            raise error
        combine(*arguments)

    monkeypatch.setattr(surgery_common, "combine_experts", stops)
    with pytest.raises(KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else CheckpointError):
        surgery.operate(folder / "moe", out, operation())
    assert done == [2] and sorted(path.name for path in tmp_path.rglob("*")) == before
    if replaced:
        load_model(out)


def test_a_file_that_does_not_hold_what_was_made_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = surgery.write_model_files

    def damaged(target: Path, *arguments: Any, **named: Any) -> None:
        write(target, *arguments, **named)
        entry = read_header(target / "model.safetensors")["model.layers.0.mlp.experts.1.up_proj.weight"]
        with open(target / "model.safetensors", "r+b") as file:
            file.seek(entry.end - 1)
            file.write(b"\x01")

    def other_config(target: Path, *arguments: Any, **named: Any) -> None:
        write(target, *arguments, **named)
        config = json.loads((target / "config.json").read_text()) | {"norm_topk_prob": False}
        (target / "config.json").write_text(json.dumps(config))

    for wrong, said in (
        (damaged, r"experts\.1\.up_proj\.weight' was not written"),
        (other_config, "another model"),
    ):
        monkeypatch.setattr(surgery, "write_model_files", wrong)
        with pytest.raises(CheckpointError, match=said):
            surgery.operate(folder / "moe", tmp_path / "out", operation())
        assert not list(tmp_path.iterdir())


def test_the_original_is_not_in_memory_when_the_result_is_read_back(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = one_at_a_time(monkeypatch)
    surgery.operate(folder / "moe", tmp_path / "out", operation())
    assert len(read) == 2
    settings = {"layer": 0, "expert": 1, "other": str(folder / "other")}
    surgery.operate(folder / "moe", tmp_path / "swapped", operation("swap-expert", **settings))
    assert len(read) == 5


@pytest.mark.slow
def test_a_killed_operation_leaves_nothing_that_stays(folder: Path, tmp_path: Path) -> None:
    """Killed while it writes: no result appears, and the next operation removes what it left."""
    program = (
        "import os, sys\n"
        "from coterie.recipes import surgery\n"
        "from coterie.surgery import common\n"
        "combine, done = common.combine_experts, []\n"
        "def dies(*arguments):\n"
        "    done.append(0)\n"
        "    os.kill(os.getpid(), 9) if len(done) == 2 else combine(*arguments)\n"
        "common.combine_experts = dies\n"
        "surgery.operate(sys.argv[1], sys.argv[2], surgery.Operation('prune', {'keep': 0.5}, data=()))\n"
    )
    out = tmp_path / "out"
    command = [sys.executable, "-c", program, str(folder / "moe"), str(out)]
    assert subprocess.run(command, check=False, timeout=300).returncode == -9
    assert not out.exists() and len(list(tmp_path.iterdir())) == 1
    surgery.operate(folder / "moe", out, operation())
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
