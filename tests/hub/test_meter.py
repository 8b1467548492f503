"""Progress of downloads."""

from __future__ import annotations

import logging

import pytest

from coterie.hub import meter
from coterie.hub.meter import Halted, Meter


def test_a_line_every_few_seconds(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch):
    caplog.set_level(logging.INFO, "coterie")
    now = [0.0]
    monkeypatch.setattr(meter.time, "monotonic", lambda: now[0])
    counted = Meter("fetching a/b", 100_000_000)
    counted.keep(40_000_000)  # not part of the rate
    with counted.bar(total=1, desc="x") as bar:
        now[0] = 4.0
        bar.update(10_000_000)
        assert caplog.messages == []
        now[0] = 10.0
        bar.update(10_000_000)
    assert caplog.messages == ["fetching a/b: 60 MB of 100 MB, 2 MB/s, ETA 20 s"]
    counted.halt()
    with pytest.raises(Halted):
        counted.add(1)
