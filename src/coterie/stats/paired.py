"""Two models on the same items: exact tests, intervals of the difference, equivalence."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
from scipy import stats

from coterie.config.errors import DataError
from coterie.results.accuracy import mcnemar
from coterie.results.evaluation import ItemRecord
from coterie.results.intervals import Estimate
from coterie.results.paired import PairedDifference
from coterie.stats.bootstrap import bootstrap_mean
from coterie.stats.clusters import Numbers, checked, cluster_error, cluster_sums
from coterie.stats.power import smallest_difference
from coterie.stats.seeds import seeded_difference

_EXACT = 14  # clusters up to which all signs are tried
_DRAWS = 20_000
_Z = 1.959964
_Key = TypeVar("_Key")


def compare_records(
    first: Sequence[ItemRecord], second: Sequence[ItemRecord], seed: int = 0
) -> PairedDifference:
    """Second minus first; an item's score is the mean over its seeds.

    Items that one of the two could not judge are left out. Errors: `DataError` where the two did not answer
    the same items from the same prompts.
    """
    one, other = _by_item(first), _by_item(second)
    if one.keys() != other.keys():
        raise DataError(
            f"{len(one.keys() ^ other.keys())} items were answered by one of the two models only, so the two "
            "cannot be compared in pairs; score both on the same items"
        )
    for name, records in one.items():
        for digest, what in (("digest", "the item"), ("prompt", "the prompt")):
            if getattr(records[0], digest) != getattr(other[name][0], digest):
                raise DataError(
                    f"item '{name}': {what} is not the same for both models, so they cannot be compared; "
                    "score both with the same version and settings"
                )
    kept = [name for name in one if not any(record.failed for record in (*one[name], *other[name]))]
    if not kept:
        raise DataError("no item was judged for both models")
    before, after = ([_mean(side[name]) for name in kept] for side in (one, other))
    return compare_scores(before, after, [one[name][0].cluster for name in kept], seed)


def compare_scores(
    first: Sequence[float],
    second: Sequence[float],
    clusters: Sequence[str],
    seed: int = 0,
    lower_is_better: bool = False,
) -> PairedDifference:
    """Second minus first, item by item. `lower_is_better`: the scores are costs.

    Right or wrong, and no cluster of several items: McNemar's exact test, with the interval of Bonett and
    Price (2012). Otherwise signs are swapped by cluster for the test, and clusters resampled for the
    interval. Errors: `DataError` for lists of different lengths, or empty ones.
    """
    before, groups = checked(first, clusters)
    after, _ = checked(second, clusters)
    differences = after - before
    number = len(set(groups))
    gained, lost = int((differences > 0).sum()), int((differences < 0).sum())
    binary = bool(np.isin(np.concatenate([before, after]), (0.0, 1.0)).all())
    if binary and number == len(before):
        p, test, change = mcnemar(gained, lost), "McNemar, exact", _bonett_price(gained, lost, len(before))
    else:
        p, test = _swapped_signs(cluster_sums(differences, groups), seed)
        change = bootstrap_mean(differences.tolist(), groups, seed)
    if lower_is_better:
        gained, lost = lost, gained
    return PairedDifference(
        first=float(before.mean()), second=float(after.mean()), difference=change, p=p, test=test,
        items=len(before), clusters=number, gained=gained, lost=lost,
        mde80=smallest_difference(cluster_error(differences, groups), number),
        lower_is_better=lower_is_better,
    )  # fmt: skip


def compare_bits(first: Numbers, second: Numbers, sizes: Numbers) -> PairedDifference:
    """Second minus first in bits per byte, of texts with the bits `first` and `second` and `sizes` bytes.

    A t test of the ratio over texts. Errors: `DataError` for fewer than two texts.
    """
    found = seeded_difference((second - first)[None], sizes)
    moved = found.interval
    return PairedDifference(
        first=float(first.sum() / sizes.sum()), second=float(second.sum() / sizes.sum()),
        difference=Estimate(value=moved.value, low=moved.low, high=moved.high),
        p=found.p, test="t over texts", items=len(sizes), clusters=len(sizes),
        gained=int((second < first).sum()), lost=int((second > first).sum()),
        mde80=found.mde80, lower_is_better=True,
    )  # fmt: skip


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's correction (1979) of several p values, in their order."""
    corrected, largest = [0.0] * len(ps), 0.0
    for rank, place in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[place]))
        corrected[place] = largest
    return corrected


def corrected(found: Mapping[_Key, PairedDifference]) -> dict[_Key, PairedDifference]:
    """The same comparisons, each with `p_holm`: its p value corrected for all of them."""
    ps = holm([one.p for one in found.values()])
    return {
        key: one.model_copy(update={"p_holm": p}) for (key, one), p in zip(found.items(), ps, strict=True)
    }


def tost(differences: Sequence[float], margin: float, clusters: Sequence[str] | None = None) -> float:
    """The p value of the claim that the mean difference is within plus or minus `margin`.

    The larger of two one-sided t tests, over clusters where they are given. Errors: `DataError` for a margin
    of 0 or below, and fewer than two clusters.
    """
    lower, upper = (
        not_below(values, margin, clusters) for values in (differences, [-d for d in differences])
    )
    return max(lower, upper)


def not_below(differences: Sequence[float], margin: float, clusters: Sequence[str] | None = None) -> float:
    """The p value of the claim that the mean difference is above minus `margin`: no worse than that.

    Errors: as `tost`.
    """
    array, groups = checked(differences, clusters or [str(place) for place in range(len(differences))])
    number = len(set(groups))
    if margin <= 0 or number < 2:
        raise DataError("equivalence: give a margin above 0 and at least two items that stand alone")
    error, distance = cluster_error(array, groups), float(array.mean()) + margin
    if error == 0:
        return 0.0 if distance > 0 else 1.0
    return float(stats.t.sf(distance / error, number - 1))


def _by_item(records: Sequence[ItemRecord]) -> dict[str, list[ItemRecord]]:
    found: dict[str, list[ItemRecord]] = {}
    for record in records:
        found.setdefault(record.id, []).append(record)
    return found


def _mean(records: Sequence[ItemRecord]) -> float:
    return math.fsum(record.score for record in records) / len(records)


def _bonett_price(gained: int, lost: int, count: int) -> Estimate:
    """The difference of two shares on the same items, with one more item of each kind in the interval."""
    more, less, total = (gained + 1) / (count + 2), (lost + 1) / (count + 2), count + 2
    middle = more - less
    half = _Z * math.sqrt(max(0.0, more + less - middle**2) / total)
    value = (gained - lost) / count
    return Estimate(
        value=value, low=min(value, max(-1.0, middle - half)), high=max(value, min(1.0, middle + half))
    )


def _swapped_signs(sums: Numbers, seed: int) -> tuple[float, str]:
    """The probability of a difference at least as large if each cluster's sign were a coin's."""
    moved = sums[sums != 0]
    if not len(moved):
        return 1.0, "swapped signs"
    at_least = abs(moved.sum()) * (1 - 1e-12)
    if len(moved) <= _EXACT:
        signs = 1 - 2 * ((np.arange(2 ** len(moved))[:, None] >> np.arange(len(moved))) & 1)
        return float((np.abs(signs @ moved) >= at_least).mean()), "swapped signs, exact"
    rng, hits = np.random.default_rng(seed), 1
    for start in range(0, _DRAWS, 1000):
        signs = rng.integers(0, 2, (min(1000, _DRAWS - start), len(moved))) * 2 - 1
        hits += int((np.abs(signs @ moved) >= at_least).sum())
    return hits / (_DRAWS + 1), f"swapped signs, {_DRAWS:,} draws"
