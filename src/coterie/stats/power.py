"""What a comparison or a replay would find, and with what probability."""

from __future__ import annotations

import math

from scipy import stats

from coterie.config.errors import DataError

POWER = 0.8


def smallest_difference(error: float, clusters: int, power: float = POWER) -> float | None:
    """The smallest difference with this standard error that a test at 5 % finds with `power`.

    None where nothing varies or there is one cluster.
    """
    if clusters < 2 or error == 0:
        return None
    return error * float(stats.t.ppf(0.975, clusters - 1) + stats.t.ppf(power, clusters - 1))


def replay_power(share: float, items: int) -> float:
    """The probability that replaying `items` items meets one of the `share` that were changed."""
    return 1 - (1 - share) ** items


def replay_items(share: float, power: float = 0.95) -> int:
    """How many items must be replayed to meet one of the changed `share` with probability `power`.

    Errors: `DataError` for a share or a power outside 0 to 1.
    """
    if not (0 < share < 1 and 0 < power < 1):
        raise DataError("replay: the changed share and the power are between 0 and 1")
    return math.ceil(math.log1p(-power) / math.log1p(-share))
