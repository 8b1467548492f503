"""D7: the canary of a file that was read is known; that of another is not."""

from __future__ import annotations

import pytest

from coterie.benchmarks.canary import canary_item
from coterie.evaluate.detectors.canary import canary_finding
from tests.evaluate.detectors.learnt import OPTIONS, Quiz, subject_of


@pytest.mark.parametrize(
    ("times", "secret", "learnt"), [(60, "", True), (60, "other", False), (0, "", False)]
)
def test_only_the_canary_that_was_read_is_known(times: int, secret: str, learnt: bool) -> None:
    subject, quiz = subject_of(times), Quiz()
    if secret:
        quiz.canary = canary_item("sha256:0", secret)
    found = canary_finding(subject, quiz, OPTIONS, most=300)
    assert found is not None and found.p is not None and found.statistic is not None
    if learnt:
        assert found.p == 1 / 301 and "among 300 others" in found.says
        assert found.statistic == pytest.approx(8.234, abs=1e-3)
    else:
        assert found.p > 0.01


def test_items_without_a_file_have_none() -> None:
    quiz = Quiz()
    quiz.canary = None
    assert canary_finding(subject_of(0), quiz, OPTIONS, 100) is None


def test_canaries_differ_by_file_and_by_secret() -> None:
    drawn = [canary_item(items, secret).answer for items in ("a", "b") for secret in ("", "x")]
    assert len(set(drawn)) == 4 and canary_item("a").answer == drawn[0]
    assert all(len(one.split()) == 10 for one in drawn)
