"""Numbers as text, and the verdict: it may say no more than the intervals allow."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coterie.report.words import (
    count,
    duration,
    equal_time_winner,
    fairness,
    faster,
    reasoned,
    signed,
    size,
    verdict,
    winner,
)
from coterie.results.accuracy import accuracy_change
from coterie.results.intervals import Interval
from coterie.results.quickstart import ReasoningResults
from tests.report.fake import fake_results


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (7, "7"), (999, "999"), (999.7, "1 k"), (4194304, "4.19 M"), (9.87e9, "9.87 G"), (0.5, "0.5")],
)
def test_count(value, text):
    assert count(value) == text


@given(st.integers(1, 10**15))
def test_count_keeps_three_digits(value):
    number, _, unit = count(value).partition(" ")
    factor = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}[unit]
    assert float(number) * factor == pytest.approx(value, rel=5.01e-3)


def test_size_duration_sign():
    assert (size(512), size(1_500_000)) == ("512 B", "1.5 MB")
    assert [duration(s) for s in (0.42, 48, 59.7, 120, 200, 7500)] == [
        "0.4 s",
        "48 s",
        "1 min",
        "2 min",
        "3 min 20 s",
        "2 h 5 min",
    ]
    assert (signed(-0.02), signed(0.004)) == ("−0.0200", "+0.0040")


def test_winner_needs_an_interval_away_from_zero():
    assert winner(Interval(value=-0.02, low=-0.03, high=-0.01)) == "moe"
    assert winner(Interval(value=0.02, low=0.01, high=0.03)) == "dense"
    assert winner(Interval(value=-0.02, low=-0.05, high=0.0)) is None
    assert winner(Interval(value=0.0, low=-0.01, high=0.01)) is None


def test_faster_ignores_timing_noise():
    assert faster(100, 96, larger_is_better=True) is None
    assert faster(100, 90, larger_is_better=True) == "moe"
    assert faster(100, 90, larger_is_better=False) == "dense"


@given(st.floats(-0.1, 0.1), st.floats(0.0001, 0.1))
def test_verdict_never_overclaims(difference, half):
    results = fake_results(difference=difference, half=half)
    first, *_, last = verdict(results)
    if abs(difference) <= half:
        assert first.startswith("No difference in quality is shown") and "includes zero" in first
        assert "quality at equal text" not in last
    elif difference < 0:
        assert first.startswith("The mixture of experts predicts held-out text better")
        assert "Choose the MoE for quality at equal text" in last
    else:
        assert first.startswith("The dense model predicts held-out text better")
        assert "MoE in nothing" in last


def test_verdict_says_where_the_dense_model_wins():
    text = " ".join(verdict(fake_results()))
    assert "After 2 min 11 s of training each on this machine, the dense model is better" in text
    assert "generates text at 0.69 times the speed" in text
    assert (
        "Choose the dense model for quality at equal training time, generation speed, memory and size" in text
    )


def test_equal_time_gap_must_exceed_the_noise():
    results = fake_results(half=0.012)  # the gap is 0.011
    assert equal_time_winner(results) is None
    assert any("no difference is shown" in s and "After 2 min 11 s" in s for s in verdict(results))
    assert equal_time_winner(fake_results(half=0.010)) == "dense"
    assert equal_time_winner(results.model_copy(update={"equal_time": None})) is None


def test_slices_are_sorted_into_three_groups():
    results = fake_results(slices=("a", "b", "c"))
    parts = {
        "a": Interval(value=-1, low=-2, high=-0.1),
        "b": Interval(value=1, low=0.1, high=2),
        "c": Interval(value=0, low=-1, high=1),
    }
    difference = results.difference.model_copy(update={"per_slice": parts})
    sentence = verdict(results.model_copy(update={"difference": difference}))[1]
    assert "the MoE is better on a; the dense model is better on b; no difference is shown on c." in sentence


def test_fairness_is_read_off_the_record():
    results = fake_results()
    assert fairness(results) == "with equal active parameters and the same search for the learning rate"
    moe = results.moe.model_copy(
        update={"active_parameters": 3_465_000, "lr_sweep": results.moe.lr_sweep[:2]}
    )
    text = fairness(results.model_copy(update={"moe": moe}))
    assert (
        text
        == "with 1.50 times the active parameters in the MoE and a different search for the learning rate"
    )


def test_one_slice_is_not_broken_down():
    assert not any("kind of text" in sentence for sentence in verdict(fake_results(slices=("text",))))


def rewarded(before: int, after: int, lost: int = 0, **changes) -> ReasoningResults:
    """Of 240 held-out problems, the first `before` are right and then `after`; `lost` others no longer."""
    first = [at < before for at in range(240)]
    second = [lost <= at < after + lost for at in range(240)]
    parts = {"path": "m", "task": "parity", "says": "bits", "cold_start_tokens": 9, "seconds": 1.0}
    change = {"change": accuracy_change(first, second), "mean_tokens": (6.0, 24.0)}
    return ReasoningResults(**parts, **(change | changes))


def test_a_gain_by_rewards_is_claimed_only_where_the_test_shows_it():
    assert reasoned(rewarded(120, 230)).startswith("Rewards alone made it better at the task: 50 % of 240")
    assert "grew from 6 to 24 tokens" in reasoned(rewarded(120, 230))
    assert "grew" not in reasoned(rewarded(120, 230, mean_tokens=(6.0, 5.0)))
    # 120 against 128: ten gained and two lost have p = 0.039, which chance gives every 25 times.
    assert reasoned(rewarded(120, 128, lost=2)).startswith("No gain by the rewards is shown")
    assert reasoned(rewarded(230, 120)).startswith("No gain by the rewards is shown")
    refused = rewarded(1, 1, change=None, mean_tokens=None, refused="task parity: nothing is right")
    assert reasoned(refused) == "The rewards taught nothing: task parity: nothing is right."
