"""The commands of docs/experts.md in order: profile, select, tune, patch apply and patch remove."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import coterie
from coterie.config import CheckpointError
from coterie.infer.model import LanguageModel
from tests.recipes.tuned import base, command, conversations

IDS = list(range(5, 40))


def same_tensors(a: LanguageModel, b: LanguageModel) -> bool:
    own, other = a.model.state_dict(), b.model.state_dict()
    return own.keys() == other.keys() and all(torch.equal(own[name], other[name]) for name in own)


def numbers(record: dict[str, Any], name: str = "") -> dict[str, float]:
    """Every number of a nested record by its path."""
    found: dict[str, float] = {}
    for key, value in record.items():
        found |= numbers(value, f"{name}.{key}") if isinstance(value, dict) else {f"{name}.{key}": value}
    return found


# DeepSeek's routers have a bias for selection, and layers with shared experts beside dense ones.
@pytest.mark.parametrize("family", ["qwen3_moe", pytest.param("deepseek_v3", marks=pytest.mark.slow)])
def test_from_profile_to_patch_and_back(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*words: object, code: int = 0) -> str:
        found, out, err = command(monkeypatch, capsys, *words)
        assert found == code, err
        return out + err

    model, task = base(tmp_path, family), conversations(tmp_path / "task.jsonl")
    monkeypatch.chdir(tmp_path)
    run("profile", model, task, "-o", "profile.json")
    run("select", "profile.json", "--method", "esft-token", "--p", 0.2, "-o", "experts.json")
    small = ("--steps", 3, "row_length=128", "retention=none")
    run("tune", model, task, "--method", "esft", "--experts", "experts.json", "-o", "runs/task", *small)
    patch = tmp_path / "runs/task/patch"
    chosen = json.loads((tmp_path / "experts.json").read_text())["experts"]
    inspected = run("patch", "inspect", patch)
    assert all(
        f"layer {layer}: experts {', '.join(map(str, experts))}" in inspected
        for layer, experts in chosen.items()
    )

    assert "patches: 1" in run("patch", "apply", model, patch, "-o", "applied")
    assert "base gravity      1.000" in run("verify", "applied", patch, "--base", model)
    routed = [
        json.loads(run("routing", model, tuned, "--data", task, "--json")) for tuned in (patch, "applied")
    ]
    # The two hold the same experts in layers of different forms, whose products round differently.
    drifts = [numbers(one["drift"]) for one in routed]
    assert drifts[0] == pytest.approx(drifts[1], abs=1e-6)
    assert any("weight_distance" in key for key in drifts[0])
    assert "DIFFERENT" in run("verify", model, patch, code=1)
    untouched, applied, on_base, by_itself = (
        coterie.load(model),
        coterie.load("applied"),
        coterie.load(model, adapter=patch, check=False),
        coterie.load(patch),
    )
    assert same_tensors(applied, on_base) and same_tensors(applied, by_itself)
    assert not same_tensors(applied, untouched)
    assert torch.equal(on_base.logits(IDS), applied.logits(IDS))

    run("patch", "remove", "applied", patch, model, "-o", "restored")
    assert same_tensors(coterie.load("restored"), untouched)
    weights = "model.safetensors"
    assert (tmp_path / "restored" / weights).read_bytes() == (model / weights).read_bytes()

    assert "is whole" in run("verify", patch)
    assert run("run", patch, "red?", "--max-tokens", 4, "--temperature", 0) == run(
        "run", "applied", "red?", "--max-tokens", 4, "--temperature", 0
    )
    for other in (base(tmp_path, "mixtral"), Path("applied")):
        with pytest.raises(CheckpointError, match="not the base of the patch") as error:
            coterie.load(other, adapter=patch)
        assert "\n" not in str(error.value)
    assert "patch apply" in run("tune", patch, task, "--dry-run", "-o", "runs/more", code=2)
