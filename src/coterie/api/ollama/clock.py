"""Times as Ollama writes them."""

from __future__ import annotations

from datetime import UTC, datetime


def now() -> str:
    """This moment."""
    return moment(datetime.now(UTC).timestamp())


def moment(seconds: float) -> str:
    """Seconds since 1970 as text, such as 2026-01-31T12:00:00.000000Z."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def nanoseconds(seconds: float) -> int:
    """A duration as Ollama counts it."""
    return max(0, int(seconds * 1e9))
