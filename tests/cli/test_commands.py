"""The commands as a user types them: what works, and one line with a non-zero exit for what does not."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from coterie.cli.main import main

MODEL: dict[str, Any] = {
    "model_type": "qwen3_moe",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "moe_intermediate_size": 16,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "norm_topk_prob": True,
    "router_aux_loss_coef": 0.01,
}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A little folder of distinct text files."""
    folder = tmp_path_factory.mktemp("text")
    words = "the a one some cat dog tree house runs sees finds makes red green small large of in".split()
    words += "under and then".split()
    for index in range(30):
        lines = [
            " ".join(words[(index * 7 + i * i + j * (i + 3)) % len(words)] for j in range(12))
            for i in range(20)
        ]
        (folder / f"{index}.txt").write_text(f"Text number {index}.\n" + "\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def run_dir(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short finished training run."""
    out = tmp_path_factory.mktemp("runs") / "tiny"
    call("train", str(write_config(out.parent, text, out)))
    return out


def write_config(folder: Path, text: Path, out: Path, **changes: Any) -> Path:
    settings = {
        "model": MODEL,
        "data": {"sources": [str(text)], "vocab_size": 300, "row_length": 64},
        "steps": 6,
        "batch_rows": 4,
        "save_every": 3,
        "out": str(out),
        "threads": 1,
    }
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(settings | changes))
    return path


def call(*arguments: str) -> None:
    """Run the command line in this process; raises SystemExit on failure."""
    before = sys.argv
    sys.argv = ["coterie", *arguments]
    try:
        main()
    except SystemExit as stop:
        if stop.code not in (0, None):
            raise
    finally:
        sys.argv = before


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that a failing command prints last, having exited with a non-zero status."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        call(*arguments)
    assert stop.value.code not in (0, None)
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    lines = [line for line in captured.err.splitlines() if line.startswith("coterie: ")]
    assert len(lines) == 1, captured.err
    return lines[0]


def test_a_finished_run_can_be_used(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = str(run_dir / "model")
    capsys.readouterr()
    call("generate", model, "the cat", "--max-tokens", "5", "--seed", "1", "--json")
    first = json.loads(capsys.readouterr().out)
    call("generate", model, "the cat", "--max-tokens", "5", "--seed", "1", "--json")
    assert json.loads(capsys.readouterr().out) == first
    assert len(first["ids"]) == len(first["logprobs"]) == 5
    call("inspect", model, "--json")
    facts = json.loads(capsys.readouterr().out)
    assert facts["parameters"]["experts"] == 2 * 4 * 3 * 32 * 16
    call("inspect", model)
    assert "4 experts of 16, 2 per token" in capsys.readouterr().out
    call("verify", model)
    assert "answers its probes as when it was saved" in capsys.readouterr().out
    call("doctor", "--json")
    assert json.loads(capsys.readouterr().out)["threads"] >= 1


def test_the_same_command_again_changes_nothing(
    run_dir: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (run_dir / "model" / "model.safetensors").read_bytes()
    call("train", str(write_config(run_dir.parent, text, run_dir)))
    assert "going on from" in capsys.readouterr().err
    assert (run_dir / "model" / "model.safetensors").read_bytes() == before


def test_data_commands(text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call("data", "card", str(text), "--json")
    card = json.loads(capsys.readouterr().out)
    assert card["read_documents"] == 30
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"text": "fine"}\n{"text": \n')
    with pytest.raises(SystemExit) as stop:
        call("data", "lint", str(bad))
    assert stop.value.code == 1
    assert "bad.jsonl:2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.lr=0.1", "unknown key 'optimizer' (did you mean 'optimiser'?)"),
        ("optimiser.learning=0.1", "unknown key 'optimiser.learning'"),
        ("model.hiden_size=8", "unknown key 'hiden_size' (did you mean 'hidden_size'?)"),
        ("model.model_type=qwen4", "did you mean 'qwen3'?"),
        ("data.row_length=256", "longer than the model's max_position_embeddings 128"),
        ("model.vocab_size=100", "the tokenizer has 300 tokens, the model's vocab_size is 100"),
        ("data.sources=[/no/such/place]", "/no/such/place: no such file or directory"),
        ("steps", "write it as key=value"),
        ("tokens=5", "'tokens' or as 'steps'"),
        ("device=gpu", "device 'gpu'"),
        ("model.num_experts_per_tok=9", "top_k 9 is larger than num_experts 4"),
        ("steps=7", "holds a run with another 'steps'"),
        ("balance.los_coef=1", "unknown key 'los_coef' (did you mean 'loss_coef'?)"),
        ("model.num_hidden_layers=six", "cannot be used"),
        ("out=/dev/null/x", "/dev/null"),
    ],
)
def test_bad_settings(
    override: str, message: str, run_dir: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = run_dir if override == "steps=7" else tmp_path / "out"
    assert message in fails(capsys, "train", str(write_config(tmp_path, text, out)), override)


def test_going_on_from_a_model_needs_its_tokenizer(
    run_dir: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = run_dir / "model"
    path = str(write_config(tmp_path, text, tmp_path / "out", model={"from": str(model)}, steps=2))
    call("train", path)  # the same text trains the same tokenizer
    other = ["data.vocab_size=290", f"out={tmp_path / 'other'}"]
    assert "prepared with another tokenizer; set data.tokenizer=" in fails(capsys, "train", path, *other)
    call("train", path, *other, f"data.tokenizer={model}")
    assert "'balance' does not change" in fails(
        capsys, "train", path, "balance.loss_coef=1", f"out={tmp_path / 'b'}"
    )


def test_output_inside_the_text_is_refused(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_config(tmp_path, text, text / "runs")
    assert "choose an 'out' outside the text" in fails(capsys, "train", str(path))


def test_text_that_changed_is_not_gone_on_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "text"
    folder.mkdir()
    for index in range(12):
        words = [f"word{(index * 31 + j * j) % 97}" for j in range(120)]
        (folder / f"{index}.txt").write_text(" ".join(words))
    path = str(write_config(tmp_path, folder, tmp_path / "out"))
    call("train", path)
    (folder / "3.txt").write_text("quite another text " * 30)
    assert "was trained on other text" in fails(capsys, "train", path)


def test_a_killed_command_goes_on_to_the_same_weights(text: Path, tmp_path: Path) -> None:
    """kill -9 at some moment of the run, the same command again: bit for bit the uninterrupted weights."""
    weights = {}
    for name in ("whole", "killed"):
        out = tmp_path / name
        (tmp_path / f"c-{name}").mkdir()
        config = write_config(tmp_path / f"c-{name}", text, out, steps=60, save_every=7)
        command = [sys.executable, "-m", "coterie.cli.main", "train", str(config)]
        if name == "killed":
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            while not list(out.glob("checkpoints/step-*")) and process.poll() is None:
                time.sleep(0.01)
            time.sleep(random.random() * 0.3)
            process.kill()
            assert process.wait() == -9, "it had ended before it was killed"
        subprocess.run(command, check=True, capture_output=True)
        weights[name] = (out / "model" / "model.safetensors").read_bytes()
    assert weights["whole"] == weights["killed"]


def test_bad_sources(text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    binary, empty = tmp_path / "x.bin", tmp_path / "empty"
    binary.write_bytes(bytes(range(256)) * 4)
    empty.mkdir()
    for source, words in ((binary, "binary"), (empty, "no text")):
        path = write_config(tmp_path, text, tmp_path / "out", data={"sources": [str(source)]})
        line = fails(capsys, "train", str(path))
        assert words in line.lower() and str(source) in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "missing.yaml"], "missing.yaml: cannot be read"),
        (["chat", "missing"], "missing: no such directory"),
        (["inspect", "/no/such"], "/no/such: no such directory"),
        (["report", "missing"], "missing/results.json"),
        (["plan", "tune", "llama-4-scot"], "did you mean 'llama-4-scout'?"),
        (["adapter", "inspect", "/no/such"], "/no/such: no such directory"),
        (["tune", "m", "x", "lerning_rate=1"], "unknown key 'lerning_rate' (did you mean 'learning_rate'?)"),
        (
            ["tune", "m", "x", "--train", "atention=lora"],
            "unknown group 'atention' (did you mean 'attention'?)",
        ),
        (["tune", "m", "x", "--method", "esft"], "coterie: tune: method esft trains chosen experts;"),
        (["data", "card", "/no/such"], "/no/such: no such file or directory"),
        (["quickstart", "--data", "/no/such", "--out", "OUT"], "/no/such: no such file or directory"),
    ],
)
def test_missing_paths(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(tmp_path / "out") if argument == "OUT" else argument for argument in arguments]
    assert message in fails(capsys, *arguments)


def test_bad_sampling(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = str(run_dir / "model")
    assert "top_p" in fails(capsys, "generate", model, "x", "--top-p", "1.5")
    assert "bfloat61" in fails(capsys, "generate", model, "x", "--dtype", "bfloat61")
    assert "the model takes 127" in fails(capsys, "generate", model, "the " * 400)


def test_full_disk_is_one_line_and_keeps_the_last_checkpoint(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(small)], capture_output=True
    ).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        config = write_config(tmp_path, text, small / "run", model=MODEL | {"moe_intermediate_size": 256})
        line = fails(capsys, "train", str(config), f"data_dir={tmp_path / 'data'}")
        assert "space" in line.lower() or "room" in line.lower()
        assert not list(small.glob("run/checkpoints/*.tmp*"))
    finally:
        subprocess.run(["umount", str(small)], check=True)
