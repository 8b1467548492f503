"""`coterie train` with students: what a run leaves, how it resumes, and that a teacher helps."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from coterie.checkpoints.directory import load_model
from coterie.config import ConfigError
from coterie.config.run import TrainConfig
from coterie.data.build import prepare
from coterie.recipes.heldout import EVAL_TOKENS, evaluation_documents, heldout_bits
from coterie.recipes.pretrain import TrainResult, pretrain
from coterie.train.callbacks import Interrupts, read_records
from tests.arithmetic import approx
from tests.cli.support import MODEL, call
from tests.forked import Forked
from tests.recipes.test_continued import WORDS, write_text

DENSE: dict[str, Any] = {
    "model_type": "qwen3",
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "intermediate_size": 32,
}
MODELS = ("model", "students/dense", "students/dense-control", "students/moe", "students/moe-control")


def settings_of(place: Path, out: Path, **changes: Any) -> dict[str, Any]:
    small = MODEL | {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return {
        "model": MODEL,
        "data": {
            "sources": [str(place / "text")],
            "vocab_size": 280,
            "row_length": 32,
            "heldout_fraction": 0.3,
        },
        "data_dir": str(place / "data"),
        "steps": 6,
        "batch_rows": 2,
        "accumulate": 2,
        "save_every": 2,
        "eval_every": 3,
        "out": str(out),
        "threads": 1,
        "dtype": "float32",
        "codistil": {
            "students": {"dense": {"model": DENSE, "optimiser": {"name": "muon"}}, "moe": {"model": small}}
        },
    } | changes


def run(place: Path, out: Path, **changes: Any) -> TrainResult:
    return pretrain(TrainConfig.from_dict(settings_of(place, out, **changes)))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `text` and a finished run in `whole`."""
    place = tmp_path_factory.mktemp("codistil")
    write_text(place / "text", WORDS)
    run(place, place / "whole")
    return place


def tensors(out: Path, name: str) -> dict[str, torch.Tensor]:
    return load_file(out / name / "model.safetensors")


def same(first: Path, second: Path) -> bool:
    pairs = [(tensors(first, name), tensors(second, name)) for name in MODELS]
    return all(a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a) for a, b in pairs)


def test_every_model_is_there_with_its_bits_and_its_control(place: Path) -> None:
    out = place / "whole"
    record = json.loads((out / "codistil.json").read_text())
    config = TrainConfig.from_dict(settings_of(place, out))
    prepared = prepare(config.data, place / "data")
    documents = evaluation_documents(prepared, EVAL_TOKENS, "final")
    found = {name: heldout_bits(load_model(out / name).model, prepared, documents) for name in MODELS}
    assert record["teacher_bits_per_byte"] == approx(found["model"], 1, 1)
    for student in record["students"]:
        name = f"students/{student['name']}"
        assert (student["path"], student["control_path"]) == (name, f"{name}-control")
        assert student["bits_per_byte"] == approx(found[name], 1, 1) == student["gain"]["after"]
        assert student["gain"]["before"] == approx(found[f"{name}-control"], 1, 1)
    records = read_records(out / "metrics.jsonl")
    kinds = [f"student/{name}" for name in ("dense", "dense-control", "moe", "moe-control")]
    assert [r["kind"] for r in records][:5] == [*kinds, "train"]
    by_kind = [[r["tokens"] for r in records if r["kind"] == kind] for kind in ("train", *kinds)]
    assert all(tokens == by_kind[0] for tokens in by_kind) and len(by_kind[0]) == 6
    evaluated = [r for r in records if r["kind"] == "eval"]
    assert [r["step"] for r in evaluated] == [3, 6] and "heldout_bits_per_byte/moe" in evaluated[0]


def test_controls_and_students_begin_as_the_same_model(place: Path, tmp_path: Path) -> None:
    stopped = tmp_path / "none"
    config = TrainConfig.from_dict(settings_of(place, stopped, schedule={"warmup_steps": 10**6}, steps=1))
    pretrain(config)  # one step at a rate of nearly nothing
    for name in ("dense", "moe"):
        ours, control = (tensors(stopped, f"students/{name}{end}") for end in ("", "-control"))
        assert all(torch.allclose(ours[key], control[key], rtol=0, atol=1e-7) for key in ours)


def test_the_teacher_is_the_one_of_a_run_without_students(place: Path, tmp_path: Path) -> None:
    settings = settings_of(place, tmp_path / "alone")
    del settings["codistil"]
    result = pretrain(TrainConfig.from_dict(settings))
    assert result.students is None
    ours, alone = tensors(place / "whole", "model"), tensors(tmp_path / "alone", "model")
    assert all(torch.equal(ours[name], alone[name]) for name in ours)


def test_a_stopped_run_resumes_to_the_same_bits(place: Path, tmp_path: Path) -> None:
    class Stop(Interrupts):
        def on_record(self, trainer: Any, record: Any) -> None:
            if trainer.step_count == 3:
                trainer.stop("interrupted")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("coterie.recipes.run.Interrupts", Stop)
        assert run(place, tmp_path).model is None
    assert run(place, tmp_path).model is not None
    assert same(tmp_path, place / "whole")


def killed_run(place: Path, out: Path) -> None:
    torch.set_num_threads(1)
    run(place, out)


def test_a_killed_run_resumes_to_the_same_bits(place: Path, tmp_path: Path) -> None:
    process = Forked(killed_run, place, tmp_path)
    metrics = tmp_path / "metrics.jsonl"
    while not (metrics.is_file() and '"step": 4' in metrics.read_text()):
        time.sleep(0.01)
    assert process.kill() == -signal.SIGKILL
    run(place, tmp_path)
    assert same(tmp_path, place / "whole")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"students": {}}, "codistil.students"),
        ({"students": {"a/b": {"model": DENSE}}}, "becomes a directory"),
        ({"students": {"x-control": {"model": DENSE}}}, "another end than -control"),
        ({"students": {"x": {"model": {"hidden_size": 8}}}}, "codistil.students.x.model' needs either"),
        ({"students": {"x": {"model": DENSE, "optimiser": {"l": 1}}}}, "unknown key 'l'"),
        ({"students": {"x": {"model": DENSE, "balance": {"z": 1}}}}, "z"),
        ({"students": {"x": {"model": DENSE}}, "weighting": {"kind": "const", "kappa": 1}}, "kappa' needs"),
    ],
)
def test_mistakes_are_one_line(place: Path, tmp_path: Path, change: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        TrainConfig.from_dict(settings_of(place, tmp_path, codistil=change))
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_student_of_another_vocabulary_is_refused(place: Path, tmp_path: Path) -> None:
    other = {"students": {"x": {"model": DENSE | {"vocab_size": 999}}}}
    with pytest.raises(ConfigError, match=r"students.x: its vocab_size is 999"):
        run(place, tmp_path, codistil=other)


def test_the_command_shows_each_student_against_its_control(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = settings_of(place, tmp_path / "out", steps=2)
    settings["codistil"]["students"].pop("moe")
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(settings))
    call("train", str(path))
    shown = capsys.readouterr().out
    assert "student dense: " in shown and "by cross-entropy alone" in shown
    call("train", str(path), "--json")
    assert json.loads(capsys.readouterr().out)["students"]["students"][0]["name"] == "dense"
