"""One line every few seconds on how far a long pass over documents has come."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

_log = logging.getLogger("coterie")
_Item = TypeVar("_Item")


class Ticker:
    """Logs `WHAT: 12,000 of 40,000, ETA 0:40` when called, at most every `seconds`; quick work logs nothing.

    `clock`: seconds.
    """

    def __init__(self, what: str, seconds: float = 10.0, clock: Callable[[], float] = time.monotonic) -> None:
        self.what = what
        self.seconds = seconds
        self._clock = clock
        self._started = self._logged = clock()

    def __call__(self, done: int, total: int | None = None) -> None:
        """Note that `done` of `total` (None: not known) are done."""
        now = self._clock()
        if now - self._logged < self.seconds or not done:
            return
        self._logged = now
        if total is None:
            _log.info("%s: %s so far", self.what, f"{done:,}")
            return
        left = round((now - self._started) / done * (total - done))
        minutes = f"{left // 60}:{left % 60:02d}"
        _log.info("%s: %s of %s, ETA %s", self.what, f"{done:,}", f"{total:,}", minutes)


def counted(items: Iterable[_Item], ticker: Ticker, total: int | None = None) -> Iterator[_Item]:
    """The items, noted by `ticker` as they pass."""
    for number, item in enumerate(items, 1):
        yield item
        ticker(number, total)
