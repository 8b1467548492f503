"""`coterie plan tune` as a user types it: what fits exits with 0, what cannot with 1."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from coterie.cli.main import main
from coterie.config import ExpertSelection
from tests.plan.test_tuning import MOE


@pytest.fixture
def model(tmp_path: Path) -> str:
    (tmp_path / "config.json").write_text(json.dumps(MOE | {"hidden_size": 512, "head_dim": 64}))
    return str(tmp_path)


def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str, code: int = 0
) -> Any:
    monkeypatch.setattr("sys.argv", ["coterie", "plan", "tune", *words])
    with pytest.raises(SystemExit) as stop:
        main()
    found = capsys.readouterr()
    assert (stop.value.code or 0) == code, found.err
    return json.loads(found.out) if "--json" in words else found.out + found.err


def test_plans(
    model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    shown = run(monkeypatch, capsys, model, "--method", "lora")
    # Without weights the model counts as stored in bfloat16; the type of products is this machine's choice.
    assert "lora, rank 16, bfloat16" in shown and "4 x 1024 tokens" in shown and "phases" in shown
    plan = run(monkeypatch, capsys, model, "--method", "full", "--memory", "600MB", "--json")
    assert plan["fits"] and plan["plans"][0]["change"] == "as asked" and len(plan["plans"]) > 1
    assert plan["plans"][-1]["peak_bytes"] <= 600e6 < plan["plans"][-2]["peak_bytes"]
    assert not run(monkeypatch, capsys, model, "--memory", "1MB", "--json", code=1)["fits"]
    ExpertSelection(experts={0: (1,), 1: (2, 3)}).to_file(tmp_path / "experts.json")
    words = ["--method", "esft", "--experts", str(tmp_path / "experts.json"), "--json"]
    assert run(monkeypatch, capsys, model, *words)["plans"][0]["parameters"]["trained"] == 3 * 3 * 48 * 512
    short = ["--row-length", "16", "--batch-rows", "1", "--tokens", "160", "--json"]
    assert run(monkeypatch, capsys, model, *short)["seconds"] > 0


def test_mistakes(model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert "unknown method 'sft'" in run(monkeypatch, capsys, model, "--method", "sft", code=2)
    assert "float32 or bfloat16" in run(monkeypatch, capsys, model, "--dtype", "fp8", code=2)
    assert "--memory much: give a size" in run(monkeypatch, capsys, model, "--memory", "much", code=2)
