"""What a verdict says about being right."""

from __future__ import annotations

from coterie.benchmarks.item import ItemVerdict


def test_a_cost_is_never_right() -> None:
    assert ItemVerdict(score=1.0).right
    assert not ItemVerdict(score=1.2, lower_is_better=True).right
    assert not ItemVerdict(score=1.0, failed=True).right
