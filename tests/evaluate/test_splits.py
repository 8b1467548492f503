"""A score by what the training data holds of its items."""

from __future__ import annotations

import numpy as np
import pytest

from coterie.benchmarks.item import BenchmarkItem
from coterie.config import DataError
from coterie.evaluate.splits import queried, score_splits, split_finding
from coterie.results.contamination import ContaminationRecord, ItemClass, ItemFinding
from coterie.results.evaluation import ItemRecord


def record(number: int, score: float, cluster: str = "") -> ItemRecord:
    name = f"i{number}"
    return ItemRecord(
        task="t", id=name, digest=name, cluster=cluster or name, prompt="p", score=score, right=score == 1
    )


def search(kinds: list[ItemClass]) -> ContaminationRecord:
    findings = [ItemFinding(id=f"i{number}", kind=kind) for number, kind in enumerate(kinds)]
    return ContaminationRecord(items="x", indexes=[], findings=findings)


def test_a_model_that_knows_the_planted_items() -> None:
    kinds: list[ItemClass] = [*["contaminated"] * 40, *["clean"] * 50, *["unscannable"] * 10]
    random = np.random.default_rng(0)
    scores = [1.0] * 40 + [float(x) for x in random.random(60) < 0.3]
    splits = score_splits([record(n, s) for n, s in enumerate(scores)], search(kinds))
    assert (splits.clean.items, splits.contaminated.items, splits.unscannable.items) == (50, 40, 10)
    assert splits.contaminated.value == 1 and splits.clean.value == pytest.approx(np.mean(scores[40:90]))
    assert splits.coverage == pytest.approx(0.9)
    change = splits.clean_minus_all
    assert change is not None and change.high < 0
    assert change.value == pytest.approx(np.mean(scores[40:90]) - np.mean(scores))
    found = split_finding(splits)
    assert found.flag and "40.0%" in found.says and "read the clean score" in found.says


def test_nothing_planted_is_no_flag() -> None:
    scores = [float(n % 3 == 0) for n in range(60)]
    splits = score_splits([record(n, s) for n, s in enumerate(scores)], search(["clean"] * 60))
    assert splits.contaminated.value is None and splits.clean.value == pytest.approx(1 / 3)
    assert not split_finding(splits).flag


def test_what_cannot_be_looked_up_is_never_clean() -> None:
    splits = score_splits([record(n, 1.0) for n in range(8)], search(["unscannable"] * 8))
    assert splits.clean.items == 0 and splits.clean.value is None and splits.clean_minus_all is None
    assert splits.coverage == 0 and "nothing can be said of 100.0%" in split_finding(splits).says
    with pytest.raises(DataError, match="was not looked up"):
        score_splits([record(9, 1.0)], search(["clean"] * 8))


def test_the_difference_of_a_random_half_is_not_certain() -> None:
    """Contamination without an effect moves the clean score by chance only."""
    random, outside = np.random.default_rng(1), 0
    for _ in range(100):
        kinds: list[ItemClass] = ["clean" if x else "contaminated" for x in random.random(80) < 0.5]
        scores = (random.random(80) < 0.5).astype(float)
        change = score_splits([record(n, s) for n, s in enumerate(scores)], search(kinds)).clean_minus_all
        assert change is not None
        outside += not change.low <= 0 <= change.high
    assert outside <= 14  # 5 % of 100, and four standard deviations of 2.2


def test_the_texts_that_are_looked_up() -> None:
    turn = {"role": "user", "content": "Which one?"}
    items = [
        BenchmarkItem("a", (turn,), 1, choices=("red", "blue")),
        BenchmarkItem("b", (turn,), "blue", passage="The sky."),
        BenchmarkItem("c", (turn,), ["x", "y"]),
        BenchmarkItem("d", (turn,), {"n": 3}),
    ]
    found = queried(items)
    assert [one.answers for one in found] == [("blue",), ("blue",), ("x", "y"), ('{"n": 3}',)]
    assert found[0].choices == ("red", "blue") and found[1].passage == "The sky."
    assert {one.question for one in found} == {"Which one?"}
