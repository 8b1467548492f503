"""The adapter of reasoning-gym: names with holes are refused; problems are judged strictly."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from coterie.config import ConfigError
from coterie.tasks import load_task
from coterie.tasks.check import check_task
from coterie.tasks.problem import TaskError


class Dataset:
    """What `reasoning_gym.create_dataset` gives, for `spell_backward`."""

    def __init__(self, name: str, size: int, seed: int) -> None:
        self.seed = seed

    def __getitem__(self, index: int) -> dict[str, Any]:
        word = f"word{self.seed + index}"
        return {"question": f"Spell this word backward: {word}", "answer": word[::-1]}


def test_problems_come_from_the_library_and_verdicts_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym", SimpleNamespace(create_dataset=Dataset))
    family = load_task("gym:spell_backward")
    report = check_task(family, 40)
    assert report.passed, report.faults
    problem = family.problem(0, 3)
    assert family.judge(problem, f"Answer: {problem.answer}").right
    assert not family.judge(problem, f"Answer: it is {problem.answer} I think").right


def test_names_with_holes_and_unknown_ones() -> None:
    with pytest.raises(ConfigError, match="game_of_life_halting: it cannot be trained on: its scorer"):
        load_task("gym:game_of_life_halting")
    with pytest.raises(ConfigError, match="gym:chainsum is not known"):
        load_task("gym:chainsum")


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(TaskError, match="reasoning-gym is not installed"):
        load_task("gym:gcd")
