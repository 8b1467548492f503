"""What commands show on standard error: the messages of the logger `coterie`, which the library only logs.

From Python nothing is shown below a warning, unless logging is configured: `logging.getLogger("coterie")`.
"""

from __future__ import annotations

import logging
import sys
import time


class _ToStandardError(logging.Handler):
    """Writes to `sys.stderr` as it is at that moment, so that a redirection is followed."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr, flush=True)


class _Plain(logging.Formatter):
    """The message alone; warnings and errors with their level before it. `clock`: seconds since the start."""

    def __init__(self, clock: bool) -> None:
        super().__init__()
        self.started = time.monotonic() if clock else None

    def format(self, record: logging.LogRecord) -> str:
        """One message."""
        text = record.getMessage()
        if record.levelno > logging.INFO:
            text = f"{record.levelname}: {text}"
        return text if self.started is None else f"[{time.monotonic() - self.started:5.0f} s] {text}"


def show_messages(clock: bool = False) -> None:
    """Show the library's messages on standard error from now on. A second call replaces the first."""
    log = logging.getLogger("coterie")
    for handler in log.handlers[:]:
        if isinstance(handler, _ToStandardError):
            log.removeHandler(handler)
    handler = _ToStandardError()
    handler.setFormatter(_Plain(clock))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
