"""The record of a reinforcement run: what became of each problem, and which of them are shown."""

from __future__ import annotations

import pytest

from coterie.results.accuracy import PassAt, PassAtChange
from coterie.results.intervals import Interval
from coterie.results.reinforce import choose_samples
from tests.report.reinforced import measured

Q = [True] * 2 + [False] * 60  # right before: problems 0 and 1


def kinds(after: list[bool], most: int) -> list[str]:
    """What became of the problems that are shown."""
    return [sample.kind for sample in choose_samples(measured(Q, "a"), measured(after, "b"), most)]


def test_each_kind_has_a_quarter_and_the_rest_is_shared() -> None:
    after = [True, False] + [True] * 30 + [False] * 30
    found = kinds(after, 36)
    assert [found.count(kind) for kind in ("gained", "lost", "right", "wrong")] == [17, 1, 1, 17]
    assert found == sorted(found, key=["gained", "lost", "right", "wrong"].index)
    assert kinds(Q, 8) == ["right"] * 2 + ["wrong"] * 6
    assert len(kinds(after, 4)) == 4 and len(kinds(after, 500)) == 62
    first = choose_samples(measured(Q, "a"), measured(after, "b"), 8)[0]
    assert (first.before.problem, first.before.content, first.after.content) == ("toy/0/2", "a", "b")


def test_the_mean_length_is_of_held_out_replies() -> None:
    assert measured([True, False], "").mean_tokens == 7.0
    assert measured([], "").mean_tokens == 0.0


@pytest.mark.parametrize(
    ("first", "last", "finding"),
    [
        ((0.1, 0.4), (0.0, 0.0), "sharper"),
        ((0.1, 0.4), (0.1, 0.3), "new"),
        ((-0.1, 0.4), (0.1, 0.3), "new"),
        ((0.1, 0.4), (-0.3, -0.1), "narrower"),
        ((-0.4, -0.1), (-0.1, 0.1), "worse"),
        ((-0.1, 0.1), (-0.1, 0.1), "none"),
    ],
)
def test_what_pass_at_k_shows(first: tuple[float, float], last: tuple[float, float], finding: str) -> None:
    change = [Interval(value=(low + high) / 2, low=low, high=high) for low, high in (first, last)]
    same = PassAt(problems=["a"], samples=2, right=[1], curve=change)
    assert PassAtChange(before=same, after=same, change=change).finding == finding
