"""Scores replayed item by item from the model they are said to be of, and what a difference proves.

A mean says little: 400 items find an inflation by 2 points in 9 of 100 trials. Items that are answered again
find it almost always. m items of n, d of which were changed: none of them is among the m with probability
C(n - d, m) / C(n, m).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from coterie.benchmarks.files import FixedItems
from coterie.benchmarks.item import Benchmark
from coterie.config import DataError
from coterie.evaluate.asking import ReplyOptions
from coterie.evaluate.scoring import score_benchmark, task_result
from coterie.evaluate.subject import Subject
from coterie.evidence.canonical import digest_of
from coterie.results.evaluation import ItemRecord, TaskResult

ALPHA = 0.01  # of all tests together, in noisy mode
_SLACK = 10.0  # how many times as far as two honest runs log-probabilities may be apart, on another machine
_ROUNDING = 1e-6  # of a score that another release of numpy or scipy adds up
_COUNTED = ("items", "n", "score", "groups", "between_seeds", "extraction")
_SMALLEST = 1e-4  # nats; two honest runs may agree by chance to the last bit


def drawn(report_digest: str, nonce: str, count: int, total: int) -> list[int]:
    """Which `count` of `total` items are replayed, ascending; all of them where there are no more.

    The numbers are ranked by a hash of report, nonce and number: whoever signed the report cannot know them
    before the verifier has chosen the nonce, and anybody can check them after it.
    """
    seed = hashlib.sha256(f"{report_digest}|{nonce}".encode()).digest()
    ranks = [hashlib.sha256(seed + number.to_bytes(8, "big")).digest() for number in range(total)]
    return sorted(sorted(range(total), key=ranks.__getitem__)[:count])


def replay(
    subject: Subject, benchmark: Benchmark, options: ReplyOptions, claimed: Sequence[ItemRecord]
) -> list[ItemRecord]:
    """The records of the same items, answered again.

    Errors: `DataError` where the benchmark does not hold an item, or holds another of its name.
    """
    items = {item.id: item for item in benchmark.items()}
    for record in claimed:
        if record.id not in items or items[record.id].digest != record.digest:
            raise DataError(
                f"{benchmark.name}: the item '{record.id}' of the report is another one here; give the task "
                "as it was scored"
            )
    found: dict[tuple[str, int | None], ItemRecord] = {}
    for seed in dict.fromkeys(record.seed for record in claimed):
        some = FixedItems(benchmark, [items[record.id] for record in claimed if record.seed == seed])
        done = score_benchmark(subject, some, options, seeds=() if seed is None else (seed,))
        found |= {(record.id, record.seed): record for record in done.records}
    return [found[record.id, record.seed] for record in claimed]


def check_counted(
    claimed: TaskResult,
    records: Sequence[ItemRecord],
    benchmark: Benchmark,
    limit: int | None = None,
    seeds: Sequence[int] = (),
) -> None:
    """Errors: `DataError` for a task's result that is not what the records of all its items amount to.

    `limit`, `seeds`: as `score_benchmark`. A score that was changed alone, and items that were left out,
    would pass every replay of single records.
    """
    items = list(benchmark.items())[:limit]
    asked = (tuple(seeds) if benchmark.mode == "reply" else ()) or (None,)
    wanted = [(item.id, seed) for seed in asked for item in items]
    if [(record.id, record.seed) for record in records] != wanted:
        raise DataError(
            f"{claimed.id}: the report has {len(records)} records that are not one for each of the "
            f"{len(wanted)} replies of the task, in order; items were left out, or it is another task here"
        )
    groups = {item.id: item.group for item in items}
    digest = digest_of([item.digest for item in items])
    again = task_result(benchmark, records, groups, claimed.prompt, digest, claimed.samples)
    theirs, ours = claimed.to_dict(), again.to_dict()
    name = next((name for name in _COUNTED if not _equal(theirs[name], ours[name])), None)
    if name == "score":
        raise DataError(
            f"{claimed.id}: the report's score is {claimed.score.value:.4g} ({claimed.score.low:.4g} to "
            f"{claimed.score.high:.4g}), but its records amount to {again.score.value:.4g} "
            f"({again.score.low:.4g} to {again.score.high:.4g})"
        )
    if name is not None:
        raise DataError(f"{claimed.id}: the report's '{name}' is not what its items and records amount to")


def _equal(first: Any, second: Any) -> bool:
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(_equal(first[key], second[key]) for key in first)
    if isinstance(first, float) and isinstance(second, float):
        return math.isclose(first, second, rel_tol=_ROUNDING, abs_tol=_ROUNDING)
    return bool(first == second)


def differs(claimed: ItemRecord, again: ItemRecord, tolerance: float = 0.0) -> str:
    """In which way two records of one item are not the same, in words; empty where they are.

    `tolerance`: nats by which log-probabilities may be apart.
    """
    if claimed.failed != again.failed:
        return "the checker failed" if again.failed else "the checker had failed"
    if claimed.score != again.score and not _close([claimed.score], [again.score], tolerance):
        return f"score {claimed.score:g} in the report, {again.score:g} now"
    if claimed.prompt != again.prompt:
        return "another prompt"
    if claimed.reply != again.reply or claimed.extracted != again.extracted:
        return "another reply"
    if not _close(claimed.logprobs, again.logprobs, tolerance):
        return "other log-probabilities"
    return ""


def _close(first: Sequence[float], second: Sequence[float], tolerance: float) -> bool:
    return len(first) == len(second) and furthest(first, second) <= tolerance


def furthest(first: Sequence[float], second: Sequence[float]) -> float:
    """The largest difference; infinite for another number of them."""
    if len(first) != len(second):
        return math.inf
    return max((abs(a - b) for a, b in zip(first, second, strict=True)), default=0.0)


@dataclass(frozen=True)
class NoisyTests:
    """What a replay on another machine shows, where rounding turns some answers.

    `flips`: items that are right in one and wrong in the other; `lost` of them were right in the report.
    `noise`: the largest share of flips that two honest runs allow for, with 95 % confidence. Probabilities
    of what was found if the report is honest, `p_lost`: of that excess of lost over won items; `p_flips`: of
    that number of flips at that noise; `p_logprobs`: of that number of log-probabilities further apart than
    honest ones. `reproduced`: none is below `ALPHA` after Holm.
    """

    items: int
    flips: int
    lost: int
    noise: float
    p_lost: float
    p_flips: float
    p_logprobs: float | None
    reproduced: bool


def noisy_tests(
    claimed: Sequence[ItemRecord], first: Sequence[ItemRecord], second: Sequence[ItemRecord]
) -> NoisyTests:
    """Judge a report by two honest runs of its items. Errors: `DataError` for no item."""
    if not claimed:
        raise DataError("replay: there is no item to compare")
    lost = sum(a.right and not b.right for a, b in zip(claimed, first, strict=True))
    won = sum(b.right and not a.right for a, b in zip(claimed, first, strict=True))
    honest = sum(a.right != b.right for a, b in zip(first, second, strict=True))
    items, flips = len(claimed), lost + won
    noise = 1.0 if honest == items else float(stats.beta.ppf(0.95, honest + 1, items - honest))
    p_lost = float(stats.binom.sf(lost - 1, flips, 0.5)) if flips else 1.0
    p_flips = float(stats.binom.sf(flips - 1, items, noise))
    p_logprobs = _logprob_test(claimed, first, second)
    values = [p_lost, p_flips] + ([] if p_logprobs is None else [p_logprobs])
    return NoisyTests(
        items, flips, lost, noise, p_lost, p_flips, p_logprobs, reproduced=min(values) * len(values) >= ALPHA
    )


def _logprob_test(
    claimed: Sequence[ItemRecord], first: Sequence[ItemRecord], second: Sequence[ItemRecord]
) -> float | None:
    """The probability of what lies further off than `_SLACK` times all honest ones; None without any.

    Of m differences and m others like them, the largest lies among the others with probability one half, so
    that each exceeds all m with probability 1 / (m + 1) at most.
    """
    pairs = [(a, b, c) for a, b, c in zip(claimed, first, second, strict=True) if a.logprobs]
    if not pairs:
        return None
    bound = max(_SMALLEST, _SLACK * max(furthest(b.logprobs, c.logprobs) for _, b, c in pairs))
    beyond = sum(furthest(a.logprobs, b.logprobs) > bound for a, b, _ in pairs)
    return float(stats.binom.sf(beyond - 1, len(pairs), 1 / (len(pairs) + 1)))


def noisy_power(
    items: int,
    share: float,
    noise: float = 0.005,
    draws: int = 2000,
    seed: int = 0,
    allowed: float | None = None,
) -> float:
    """How often `p_lost` or `p_flips` finds that `share` of all items were turned to right, by simulation.

    `noise`: the share of flips between honest runs; `allowed`: the bound on it (None: of a run without any).
    """
    random = np.random.default_rng(seed)
    allowed = 1 - 0.05 ** (1 / items) if allowed is None else allowed
    lost = random.binomial(items, share, draws) + random.binomial(items, noise / 2, draws)
    flips = lost + random.binomial(items, noise / 2, draws)
    p_lost = np.where(flips > 0, stats.binom.sf(lost - 1, flips, 0.5), 1.0)
    p_flips = stats.binom.sf(flips - 1, items, max(allowed, noise))
    return float(np.mean(np.minimum(p_lost, p_flips) * 3 < ALPHA))
