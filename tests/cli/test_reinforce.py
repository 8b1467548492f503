"""`coterie train reinforce`: settings in, the findings out, and the status of a run that was stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from coterie.config.reinforce import ReinforceConfig
from coterie.recipes import reinforce as recipe
from coterie.recipes.reinforce import ReinforceResult
from tests.cli.support import call
from tests.report.reinforced import run

WORDS = ("train", "reinforce", "m", "--task", "parity", "--levels", "3", "--no-gate", "policy.clip=ppo")


def given(monkeypatch: pytest.MonkeyPatch, result: ReinforceResult) -> list[ReinforceConfig]:
    """The settings that the command makes; it gets `result`."""
    seen: list[ReinforceConfig] = []

    def recipe_of(config: ReinforceConfig, hint: str) -> ReinforceResult:
        assert "train reinforce m" in hint
        seen.append(config)
        return result

    monkeypatch.setattr(recipe, "run_reinforce", recipe_of)
    return seen


def test_findings_are_printed(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    record = run().record
    seen = given(monkeypatch, ReinforceResult(Path("r/model"), "model", "finished", 4, record, Path("r/p")))
    call(*WORDS)
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("held out") and "16.7% -> 80.0% right of 30 problems" in printed[0]
    assert printed[-2].split() == ["model", "r/model"] and printed[-1].split() == ["report", "r/p"]
    assert seen[0].levels == "3" and not seen[0].gate and seen[0].policy.clip == "ppo"
    call(*WORDS, "--json")
    found = json.loads(capsys.readouterr().out)
    assert found["path"] == "r/model" and found["record"]["change"]["gained"] == 20


def test_a_stopped_run_ends_with_the_status_of_its_signal(
    monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    for reason, status in (("interrupted", 130), ("terminated", 143)):
        given(monkeypatch, ReinforceResult(None, "model", reason, 2))
        with pytest.raises(SystemExit) as ended:
            call(*WORDS)
        assert ended.value.code == status
        assert f"stopped ({reason}) after 2 steps" in capsys.readouterr().out
