"""The score of a model that was chosen as the best of several, corrected for the choice."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from coterie.config.errors import DataError
from coterie.results.intervals import Estimate
from coterie.stats.clusters import cluster_sums

_DRAWS = 2000


def best_of(
    values: npt.NDArray[np.float64], clusters: Sequence[str], chosen: int, draws: int = _DRAWS, seed: int = 0
) -> Estimate:
    """The true score of row `chosen` of `values` (models, items), with its 95 % interval.

    Clusters are drawn again, the same for all models. The lower end takes off what the luckiest of all models
    gains by chance (97.5 % of the draws), so it holds whichever of them was chosen and for whatever reason;
    the upper end is that of the model alone, since a choice by score does not make a score too low. The value
    takes off the mean gain of the draw's best model over its score, where the chosen one is the best.
    Errors: `DataError` for no item, or a model that is not there.
    """
    models, items = values.shape
    if not items or not 0 <= chosen < models:
        raise DataError("selection: needs items, and the chosen model among those that were scored")
    scores = values.mean(1)
    sums = np.stack([cluster_sums(row, clusters) for row in values])
    sizes = cluster_sums(np.ones(items), clusters)
    number = len(sizes)
    weights = np.random.default_rng(seed).multinomial(number, [1 / number] * number, size=draws)
    again = (weights @ sums.T) / (weights @ sizes)[:, None]
    gains = again - scores
    low = scores[chosen] - np.quantile(gains.max(1), 0.975)
    high = scores[chosen] - np.quantile(gains[:, chosen], 0.025)
    luck = gains[np.arange(draws), again.argmax(1)].mean() if scores[chosen] >= scores.max() else 0.0
    value = float(np.clip(scores[chosen] - max(0.0, luck), low, high))
    return Estimate(value=value, low=min(float(low), value), high=max(float(high), value))
