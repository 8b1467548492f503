"""The guard on forgetting, the same for `coterie tune` and for `coterie train` from a given model."""

from __future__ import annotations

from coterie.config import TrainingError
from coterie.config.run import RunSettings
from coterie.results.tuning import TuningChange


def require_remembered(settings: RunSettings, retention: TuningChange | None, what: str) -> None:
    """Refuse a result that lost more than `max_forgetting` bits per byte. `what`: tuning or training.

    Errors: `TrainingError`.
    """
    lost = retention.change.value if retention is not None else 0.0
    if settings.max_forgetting is not None and lost > settings.max_forgetting:
        raise TrainingError(
            f"{settings.retention}: {lost:+.3f} bits per byte after {what}, and max_forgetting is "
            f"{settings.max_forgetting}; no result was written (see report.json)"
        )
