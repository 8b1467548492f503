"""`pool`, `train reject`, `train distill`, `pipeline` and `report`: whole commands on a tiny model."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from tests.cli.support import call, fails
from tests.recipes.test_pool import TASK
from tests.recipes.tuned import base

SHORT = ("--problems", "24", "--replies", "4", "--max-tokens", "2", "--threads", "1")
TUNE = ("method=full", "lr=0.01", "steps=2", "row_length=64", "batch_rows=4", "retention=none", "eval=0")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a task, text, a tiny model and a teacher of its vocabulary."""
    folder = tmp_path_factory.mktemp("rewards")
    (folder / "small.py").write_text(TASK)
    (folder / "text.txt").write_text("\n\n".join(f"The hare sees {n} birds near a lake." for n in range(400)))
    base(folder, "llama", calm=True)
    (folder / "teacher").mkdir()
    base(folder / "teacher", "llama")
    return folder


@pytest.fixture(autouse=True)
def there(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run where the files are."""
    monkeypatch.chdir(place)


def test_a_pool_is_counted_and_written(capsys: pytest.CaptureFixture[str]) -> None:
    given = ("pool", "llama", "--task", "small.py", *SHORT, "-o", "pool.jsonl")
    call(*given)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["level", "problems", "right", "in", "the", "pool"]
    said = re.fullmatch(r"(\d+) of 24 problems are in pool.jsonl", lines[-1])
    call(*given, "--json")
    found = json.loads(capsys.readouterr().out)
    rows = Path("pool.jsonl").read_text().splitlines()
    assert said and int(said[1]) == found["pooled"] == len(rows) - 1 and found["tried"] == 24
    assert "did you mean 'parity'" in fails(capsys, "pool", "llama", "--task", "parify", *SHORT)


def test_rejection_sampling_says_what_it_accepted(capsys: pytest.CaptureFixture[str]) -> None:
    line = fails(capsys, "train", "reject", "llama", "--task", "small.py", *SHORT, "-o", "reject", *TUNE)
    assert "cut off at 2 tokens; raise --max-tokens" in line  # what is cut off is never learnt
    assert not Path("reject/tune").exists()
    line = fails(capsys, "train", "reject", "llama", "--task", "small.py", "-o", "r", "methd=full")
    assert "did you mean 'method'" in line


def test_a_distillation_ends_with_its_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    small = ("data.row_length=64", "batch_rows=4", "threads=1")
    given = ("--student", "llama", "--teacher", "teacher/llama", "--data", "text.txt", "--steps", "3")
    call("train", "distill", *given, "-o", "distil", *small, "--json")
    found = json.loads(capsys.readouterr().out)
    assert found["reason"] == "finished" and Path(found["path"]).is_dir()
    assert found["record"]["control"] is not None and found["record"]["steps"] == 3
    line = fails(capsys, "train", "distill", *given, "--task", "parity")
    assert "--on-policy" in line
    line = fails(capsys, "train", "distill", *given, "--on-policy", "-o", "other")
    assert "--data does not go with --on-policy" in line


def test_a_pipeline_is_shown_before_it_runs(capsys: pytest.CaptureFixture[str]) -> None:
    stages = [{"name": "pool", "kind": "pool", "model": "llama"}]
    Path("ladder.yaml").write_text(yaml.safe_dump({"out": "ladder", "task": "small.py", "stages": stages}))
    call("pipeline", "run", "ladder.yaml", "--dry-run")
    assert capsys.readouterr().out.split()[:2] == ["pool", "pool"] and not Path("ladder").exists()
    line = fails(capsys, "pipeline", "run", "ladder.yaml", "stages=[]", "--dry-run")
    assert "stages" in line


def test_a_report_needs_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert "neither the results of a quickstart" in fails(capsys, "report", "llama")
    with pytest.raises(SystemExit):
        call("report", "a", "b")
    assert "--out PAGE.html" in capsys.readouterr().err
