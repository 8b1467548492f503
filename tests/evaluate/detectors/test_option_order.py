"""D3: a model that has read the choices in their order prefers it; one that has not does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from coterie.benchmarks import load_benchmark
from coterie.evaluate.detectors.option_order import ORDERS, other_orders, shuffle_finding
from coterie.evaluate.scoring import score_benchmark
from tests.evaluate.detectors.learnt import OPTIONS, Quiz, subject_of
from tests.evaluate.test_scoring import Letters


@pytest.mark.parametrize(("times", "learnt"), [(60, True), (0, False)])
def test_the_own_order_is_preferred_by_who_has_read_it(times: int, learnt: bool) -> None:
    subject, quiz = subject_of(times), Quiz()
    records = score_benchmark(subject, quiz, OPTIONS).records
    found = shuffle_finding(subject, quiz, OPTIONS, records, items=15)
    assert found is not None and found.p is not None and found.statistic is not None
    assert (found.p < 1e-3 and found.statistic > 0.7) if learnt else found.p > 0.01
    assert "15 items" in found.says and "by the place of the right choice" in found.says


def test_the_right_choice_stays_right_and_moves() -> None:
    benchmark, moved = load_benchmark("facts", n=40), 0
    for item in benchmark.items():
        others = list(other_orders(benchmark, item))
        assert len(others) == (0 if "largest" in item.cluster else ORDERS)  # numbers have a natural order
        assert len({one.question for one in (item, *others)}) == len(others) + 1
        for one in others:
            assert one.choices[one.answer] == item.choices[item.answer]
            assert sorted(one.choices) == sorted(item.choices)
            places = [one.question.index(f"- {choice}\n") for choice in one.choices]
            assert places == sorted(places)
            moved += one.answer != item.answer
    assert moved > 40


def test_lettered_choices_move_behind_their_letters(tmp_path: Path) -> None:
    (tmp_path / "birds_test.csv").write_text(
        "Which bird?,red kite,blue tit,green finch,old owl,B\n"
        "How many?,1,2,30,4.5,A\n"
        "Which?,one,two,both of them,all of the above,D\n"
    )
    first, *rest = load_benchmark(f"mmlu:{tmp_path}").items()
    benchmark = load_benchmark(f"mmlu:{tmp_path}")
    other = benchmark.reordered(first, (1, 3, 0, 2))
    assert other is not None and other.answer == 0 and other.choices == ("A", "B", "C", "D")
    assert "A. blue tit\nB. old owl\nC. red kite\nD. green finch" in other.question
    assert other.question.startswith("Which bird?\n")
    assert len(list(other_orders(benchmark, first))) == ORDERS
    assert not any(list(other_orders(benchmark, item)) for item in rest)  # numbers, and choices about others


def test_a_task_without_an_order_has_no_finding() -> None:
    letters = Letters()
    subject = subject_of(0)
    records = score_benchmark(subject, letters, OPTIONS).records
    assert shuffle_finding(subject, letters, OPTIONS, records, 5) is None
