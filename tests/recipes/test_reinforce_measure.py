"""pass@k before and after on the same problems, with its interval."""

from __future__ import annotations

import pytest

from coterie.recipes.reinforce_measure import _curve, pass_at_change


def test_the_change_is_paired_by_problem() -> None:
    before = _curve(["a", "b", "c"], [0, 2, 4], 4)
    after = _curve(["c", "b", "a"], [4, 4, 1], 4)
    found = pass_at_change(before, after)
    assert found is not None and found.after.problems == ["a", "b", "c"] and found.after.right == [1, 4, 4]
    # pass@1: 0, 1/2, 1 before and 1/4, 1, 1 after. pass@4: 0, 1, 1 before and 1, 1, 1 after.
    assert found.before.curve[0].value == pytest.approx(0.5)
    assert found.change[0].value == pytest.approx((1 / 4 + 1 / 2) / 3)
    assert found.change[3].value == pytest.approx(1 / 3)
    # Resampled problems can all be the one that gained nothing, or the one that gained most.
    assert found.change[0].low == pytest.approx(0) and found.change[0].high == pytest.approx(1 / 2)


def test_problems_that_were_not_judged_both_times_are_left_out() -> None:
    before, after = _curve(["a", "b"], [0, 2], 2), _curve(["b", "c"], [1, 2], 2)
    found = pass_at_change(before, after)
    assert (
        found is not None and found.before.problems == ["b"] and found.change[0].value == pytest.approx(-0.5)
    )
    assert pass_at_change(before, _curve(["z"], [1], 2)) is None
    assert pass_at_change(None, after) is None and pass_at_change(before, None) is None
