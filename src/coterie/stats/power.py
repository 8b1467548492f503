"""What a comparison or a replay would find, and with what probability."""

from __future__ import annotations

import math

from scipy import stats

POWER = 0.8


def smallest_difference(error: float, clusters: int, power: float = POWER) -> float | None:
    """The smallest difference with this standard error that a test at 5 % finds with `power`.

    None where nothing varies or there is one cluster.
    """
    if clusters < 2 or error == 0:
        return None
    return error * float(stats.t.ppf(0.975, clusters - 1) + stats.t.ppf(power, clusters - 1))


def replay_power(total: int, count: int, share: float) -> float:
    """The probability that replaying `count` of `total` items meets one of the `share` that was changed."""
    changed = math.ceil(share * total - 1e-9)
    return 1.0 - float(stats.hypergeom.pmf(0, total, changed, min(count, total)))
