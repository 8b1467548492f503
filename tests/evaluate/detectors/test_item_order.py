"""D4: a model that has read the items in their published order prefers it; one that has not does not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from coterie.evaluate.detectors.item_order import joined, order_finding, shuffles
from coterie.evaluate.scoring import score_benchmark
from tests.evaluate.detectors.learnt import ITEMS, OPTIONS, Quiz, subject_of


@pytest.mark.parametrize(("times", "learnt"), [(60, True), (0, False)])
def test_the_published_order_is_preferred_by_who_has_read_it(times: int, learnt: bool) -> None:
    subject, quiz = subject_of(times), Quiz()
    records = score_benchmark(subject, quiz, OPTIONS).records
    found = order_finding(subject, quiz, records, orders=19, shards=5)
    assert found is not None and found.p is not None
    assert (found.p < 1e-3) if learnt else found.p > 0.01
    assert "5 shards of up to 3 items" in found.says


def test_items_stay_within_their_group() -> None:
    items = [replace(item, group="ab"[number % 2]) for number, item in enumerate(Quiz().items())]
    drawn = list(shuffles(items, 20))
    assert all([one.group for one in other] == [one.group for one in items] for other in drawn)
    assert all(sorted(one.id for one in other) == [one.id for one in items] for other in drawn)
    assert len({joined(other) for other in drawn}) == 20
    assert drawn == list(shuffles(items, 20))


def test_items_without_others_of_their_group_cannot_change_places() -> None:
    quiz, subject = Quiz(), subject_of(0)
    records = score_benchmark(subject, quiz, OPTIONS).records
    quiz._items = [replace(item, group=item.id) for item in quiz._items]
    assert order_finding(subject, quiz, records, 5, 3) is None
    assert len(quiz.items()) == ITEMS
