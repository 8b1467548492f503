"""Every built-in task: problems stay the same, splits stay apart, answers are judged strictly."""

from __future__ import annotations

import hashlib
import json

import pytest

from coterie.config import ConfigError
from coterie.primer.base import Rng
from coterie.tasks import TASKS, load_task
from coterie.tasks.problem import EXTRA, SPLITS, TaskError, TaskFamily, TaskProblem, TaskVerdict

# Of 40 problems and their worked replies; a change of a problem needs another `version` of its family.
GOLDEN = {
    ("parity", 1): "2436a9c56c927601",
    ("running-sum", 1): "f6dc31c4416c95e5",
    ("chain-sum", 1): "db3bfdd52ed4f566",
    ("multiplication", 1): "03303f7fbe741b95",
    ("composition", 1): "542dc0b26e948be6",
    ("countdown", 1): "6b2dc5fda85bfe20",
    ("programs", 1): "1f5d5244d8d2dfd0",
    ("tool-chains", 1): "e9f8e6d76975f7ad",
}


@pytest.mark.parametrize("name", TASKS)
def test_problems_stay_the_same(name: str) -> None:
    family = load_task(name)
    problems = [family.problem(index % 11, index) for index in range(40)]
    shown = json.dumps([[one.id, one.prompt, family.worked(one), family.turns(one)] for one in problems])
    assert hashlib.sha256(shown.encode()).hexdigest()[:16] == GOLDEN[name, family.version]


@pytest.mark.parametrize("name", TASKS)
def test_splits_stay_apart_for_every_seed(name: str) -> None:
    family = load_task(name)
    seen: dict[str, set[str]] = {split: set() for split in SPLITS}
    for split in SPLITS:
        for seed in (0, 1):
            for index in range(30):
                problem = family.problem(6, index, split, seed)
                assert problem.split == split
                seen[split].add(problem.key or problem.prompt)
    assert not seen["train"] & seen["test"] and not seen["train"] & seen["val"]
    assert not seen["val"] & seen["test"]


def test_levels_and_their_ends() -> None:
    family = load_task("parity")
    assert len(family.problem(0, 0).prompt) < len(family.problem(EXTRA, 0).prompt)
    with pytest.raises(ConfigError, match="there is no level 11; choose one of 0 to 10"):
        family.problem(11, 0)
    with pytest.raises(TaskError, match=r"levels 0 have only 2[0-9] problems in the split train, not 100"):
        list(family.problems([0], 100))
    assert len({one.id for one in family.problems([3, 4], 50)}) == 50


def test_a_level_without_a_problem_of_the_split_says_so() -> None:
    class Lonely(TaskFamily):
        name = "lonely"
        says = "one problem"

        def draw(self, rng: Rng, level: int) -> TaskProblem:
            return TaskProblem(self.name, level, "Say yes.", "yes")

    family = Lonely()
    split = family.draw(Rng("x"), 0).split
    other = next(one for one in SPLITS if one != split)
    with pytest.raises(TaskError, match=f"level 0 has no problem for the split {other}"):
        family.problem(0, 0, other)


def test_parts_and_weights_of_a_verdict() -> None:
    verdict = TaskVerdict({"right": 1.0, "short": 0.5})
    assert verdict.reward() == 1.5 and verdict.reward({"short": 0.2}) == 1.1 and verdict.right
    assert not TaskVerdict({"right": 0.0, "short": 1.0}).right
    assert not TaskVerdict({}, failed=True).right


def test_unknown_tasks() -> None:
    with pytest.raises(ConfigError, match=r"task 'paritty' does not exist \(did you mean 'parity'\?\)"):
        load_task("paritty")
