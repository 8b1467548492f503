"""What commands show on standard error: the messages of the logger `coterie`, which the library only logs.

From Python nothing below a warning is shown unless logging is configured: `logging.getLogger("coterie")`.
"""

from __future__ import annotations

import logging
import sys
import time
from typing import Literal

Clock = Literal["none", "run", "wall"]


class _ToStandardError(logging.Handler):
    """Writes to `sys.stderr` as it is at that moment, so that a redirection is followed."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr, flush=True)


class _Plain(logging.Formatter):
    """The message, with its level if it is a warning or an error, after the time that `clock` asks for."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock
        self.started = time.monotonic()

    def format(self, record: logging.LogRecord) -> str:
        """One message, and the traceback of an exception."""
        from coterie.text.printable import printable  # here, because most commands log nothing

        # Text of others must not look like a further message.
        text = printable(record.getMessage()).replace("\n", "\\n")
        if record.levelno > logging.INFO:
            text = f"{record.levelname}: {text}"
        if self.clock == "run":
            text = f"[{time.monotonic() - self.started:5.0f} s] {text}"
        elif self.clock == "wall":
            text = f"{self.formatTime(record)} {text}"
        if record.exc_info is None:
            return text
        lines = printable(self.formatException(record.exc_info)).splitlines()
        return "\n".join([text, *(f"  | {line}" for line in lines)])


def show_messages(clock: Clock = "none", quiet: bool | None = None) -> None:
    """Show the library's messages on standard error from now on. A later call replaces an earlier one.

    `clock`: "run" puts the seconds since this call before each message, "wall" the time of day.
    `quiet`: whether only warnings and errors are shown; None keeps an earlier choice (at first: no).
    """
    log = logging.getLogger("coterie")
    for handler in log.handlers[:]:
        if isinstance(handler, _ToStandardError):
            log.removeHandler(handler)
    handler = _ToStandardError()
    handler.setFormatter(_Plain(clock))
    log.addHandler(handler)
    if quiet is not None or log.level == logging.NOTSET:
        log.setLevel(logging.WARNING if quiet else logging.INFO)
