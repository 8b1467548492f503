"""What commands show on standard error: the messages of the logger `coterie`, which the library only logs.

From Python nothing below a warning is shown unless logging is configured: `logging.getLogger("coterie")`.
"""

from __future__ import annotations

import logging
import sys
import time
from typing import Literal

Clock = Literal["none", "run", "wall"]
# Text of others must not look like a further message, nor reach the terminal as a command.
_ONE_LINE = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if code != 9} | {
    0x2028: "\\u2028", 0x2029: "\\u2029"
}  # fmt: skip


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
        text = record.getMessage().translate(_ONE_LINE)
        if record.levelno > logging.INFO:
            text = f"{record.levelname}: {text}"
        if self.clock == "run":
            text = f"[{time.monotonic() - self.started:5.0f} s] {text}"
        elif self.clock == "wall":
            text = f"{self.formatTime(record)} {text}"
        if record.exc_info is None:
            return text
        lines = self.formatException(record.exc_info).splitlines()
        return "\n".join([text, *("  | " + line.translate(_ONE_LINE) for line in lines)])


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
