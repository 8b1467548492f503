"""`coterie train` as a user types it: what works, what resumes, and one line for what does not."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch

from tests.cli.support import MODEL, call, fails, write_config
from tests.forked import Forked


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
    assert "resuming from" in capsys.readouterr().err
    assert (run_dir / "model" / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.lr=0.1", "unknown key 'optimizer' (did you mean 'optimiser'?)"),
        ("optimiser.learning=0.1", "unknown key 'optimiser.learning'"),
        ("model.hiden_size=8", "unknown key 'hiden_size' (did you mean 'hidden_size'?)"),
        ("model.model_type=qwenn3", "did you mean 'qwen3'?"),
        ("data.row_length=256", "longer than the model's max_position_embeddings 128"),
        ("model.vocab_size=100", "the tokenizer has 300 tokens and the model's vocab_size is 100"),
        ("data.sources=[/no/such/place]", "/no/such/place: no such file or directory"),
        ("steps", "write it as key=value"),
        ("tokens=5", "'tokens' or as 'steps'"),
        ("device=gpu", "device 'gpu'"),
        ("model.num_experts_per_tok=9", "top_k 9 is larger than num_experts 4"),
        ("steps=7", "holds a run with another 'steps'"),
        ("balance.los_coef=1", "unknown key 'los_coef' (did you mean 'loss_coef'?)"),
        ("model.num_hidden_layers=six", "a whole number up to 10,000 was expected"),
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
    data = {"sources": [str(text)], "row_length": 64}
    start = {"from": str(model)}
    path = str(write_config(tmp_path, text, tmp_path / "out", model=start, steps=2, data=data))
    call("train", path)  # without a tokenizer, the text gets the model's own
    assert "'data.vocab_size' needs a tokenizer to train" in fails(
        capsys, "train", path, "data.vocab_size=290", f"out={tmp_path / 'v'}"
    )
    (tmp_path / "f").mkdir()
    call("train", str(write_config(tmp_path / "f", text, tmp_path / "f/out", steps=1)), "data.vocab_size=290")
    other = [
        f"data.tokenizer={tmp_path / 'f/out/model'}",
        f"out={tmp_path / 'other'}",
    ]
    assert "prepared with another tokenizer; set data.tokenizer=" in fails(capsys, "train", path, *other)
    assert "'balance' does not change" in fails(
        capsys, "train", path, "balance.loss_coef=1", f"out={tmp_path / 'b'}"
    )


def test_output_inside_the_text_is_refused(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_config(tmp_path, text, text / "runs")
    assert "choose an 'out' outside the text" in fails(capsys, "train", str(path))
    assert not (text / "runs").exists()


def test_text_that_changed_is_not_gone_on_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "text"
    folder.mkdir()
    for index in range(12):
        words = [f"word{(index * 31 + j * j) % 97}" for j in range(120)]
        (folder / f"{index}.txt").write_text(" ".join(words))
    path = str(write_config(tmp_path, folder, tmp_path / "out"))
    call("train", path)
    (folder / "3.txt").write_text("quite another text " * 30)
    message = fails(capsys, "train", path)
    assert "was trained on other text" in message and "earlier version of coterie" in message


def command(threads: int, *words: str) -> None:
    """A command in another process."""
    torch.set_num_threads(threads)
    call(*words)


def test_a_killed_command_goes_on_to_the_same_weights(text: Path, tmp_path: Path) -> None:
    """After kill -9 at a random moment, the same command gives the uninterrupted weights, bit for bit."""
    weights = {}
    for name in ("whole", "killed"):
        out = tmp_path / name
        (tmp_path / f"c-{name}").mkdir()
        config = str(write_config(tmp_path / f"c-{name}", text, out, steps=36, save_every=7))
        if name == "killed":
            process = Forked(command, torch.get_num_threads(), "train", config)
            while not list(out.glob("checkpoints/step-*")) and process.poll() is None:
                time.sleep(0.01)
            time.sleep(random.random() * 0.3)
            assert process.kill() == -signal.SIGKILL, "it had ended before it was killed"
        call("train", config)
        weights[name] = (out / "model" / "model.safetensors").read_bytes()
        assert not [*out.rglob("*.tmp-*"), *out.rglob("*.old-*")], "the killed run's temporaries remain"
    assert weights["whole"] == weights["killed"]


def test_bad_sources(text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    binary, empty = tmp_path / "x.bin", tmp_path / "empty"
    binary.write_bytes(bytes(range(256)) * 4)
    empty.mkdir()
    for source, words in ((binary, "binary"), (empty, "no text")):
        path = write_config(tmp_path, text, tmp_path / "out", data={"sources": [str(source)]})
        line = fails(capsys, "train", str(path))
        assert words in line.lower() and str(source) in line


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
