"""Long passes say how far they have come; short ones say nothing."""

from __future__ import annotations

import logging

import pytest

from coterie.data.progress import Ticker, counted


@pytest.mark.parametrize(
    ("total", "said"),
    [
        (None, ["text: 10 so far", "text: 20 so far", "text: 30 so far"]),
        (30, ["text: 10 of 30, ETA 0:20", "text: 20 of 30, ETA 0:10", "text: 30 of 30, ETA 0:00"]),
        (600, ["text: 10 of 600, ETA 9:50", "text: 20 of 600, ETA 9:40", "text: 30 of 600, ETA 9:30"]),
    ],
)
def test_a_line_every_ten_seconds(
    total: int | None, said: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "coterie")
    seconds = 0.0

    def passing() -> float:
        return seconds

    ticker = Ticker("text", clock=passing)
    found = []
    for item in counted(iter(range(35)), ticker, total):
        found.append(item)
        seconds += 1.0
    assert found == list(range(35)) and [record.getMessage() for record in caplog.records] == said


def test_quick_work_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "coterie")
    assert list(counted("abc", Ticker("text"), 3)) == ["a", "b", "c"] and not caplog.records
