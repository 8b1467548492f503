"""Progress of a download: bytes of several files together, at most one line every few seconds."""

from __future__ import annotations

import logging
import threading
import time
from types import TracebackType
from typing import Any, Self

from coterie.report.words import duration, size

_log = logging.getLogger("coterie")


class Halted(Exception):
    """A download ends because another one failed or the user stopped the command."""


class Meter:
    """Counts the bytes of a download of `total` bytes and logs rate and remaining time every `seconds`.

    Threads may share it. After `halt`, whatever counts here ends with `Halted`.
    """

    def __init__(self, what: str, total: int, seconds: float = 5.0) -> None:
        self.what, self.total, self.seconds = what, total, seconds
        self._lock = threading.Lock()
        self._kept = self._fetched = 0
        self._started = self._logged = time.monotonic()
        self._halted = False

    def keep(self, count: int) -> None:
        """Count bytes that an earlier download left."""
        with self._lock:
            self._kept += count

    def add(self, count: int) -> None:
        """Count bytes that arrived; negative ones must arrive again."""
        if self._halted:
            raise Halted
        with self._lock:
            self._fetched += count
            now = time.monotonic()
            if now - self._logged < self.seconds or self._fetched <= 0:
                return
            self._logged = now
            rate = self._fetched / (now - self._started)
            done = self._kept + self._fetched
        left = duration(max(0, self.total - done) / rate)
        _log.info("%s: %s of %s, %s/s, ETA %s", self.what, size(done), size(self.total), size(rate), left)

    def halt(self) -> None:
        """End what counts here."""
        self._halted = True

    def bar(self, **_: Any) -> _Bar:
        """What the hub's client takes for a progress bar."""
        return _Bar(self)


class _Bar:
    def __init__(self, meter: Meter) -> None:
        self._meter = meter

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def update(self, count: float | None = 1) -> None:
        self._meter.add(int(count or 0))
