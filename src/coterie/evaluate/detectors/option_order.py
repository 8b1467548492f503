"""D3: whether a model prefers the order in which an item's choices stand, to others that say the same."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from coterie.benchmarks.item import Benchmark, BenchmarkItem
from coterie.evaluate.asking import ReplyOptions
from coterie.evaluate.detectors.variants import judged_items, paired
from coterie.evaluate.scoring import mean
from coterie.evaluate.subject import Subject
from coterie.primer.base import Rng
from coterie.results.evaluation import DetectorFinding, ItemRecord
from coterie.stats.ranks import exchangeable

ORDERS = 8  # other ones of each item
# Choices that their author cannot have put into any order: those about others, and numbers.
_ABOUT_OTHERS = re.compile(r"\b(above|below|both|neither|none of|all of)\b|^[A-E] and [A-E]\b", re.IGNORECASE)
_NUMBER = re.compile(r"[-+$]?\d[\d.,]*\s*\S{0,6}")


def shuffle_finding(
    subject: Subject,
    benchmark: Benchmark,
    options: ReplyOptions,
    records: Sequence[ItemRecord],
    items: int,
) -> DetectorFinding | None:
    """Show the choices of the first `items` judged items in `ORDERS` others each.

    The test ranks the log-probability of the question's text among those of its other orders. It is exact if
    the author drew the order at random; items with choices about other choices or of numbers, which have a
    natural order, are left out. None where no item shows its choices in an order.
    """
    shown = [(item, list(other_orders(benchmark, item))) for item in benchmark.items()]
    judged = {item.id for item in judged_items(benchmark, records, len(records))}
    drawn = [(item, others) for item, others in shown if others and item.id in judged][:items]
    if not drawn:
        return None
    found = iter(subject.rolling([one.question for item, others in drawn for one in (item, *others)]))
    test = exchangeable([(next(found), [next(found) for _ in others]) for _, others in drawn])
    says = (
        f"{len(drawn)} items: the text in its own order is more likely than {test.place:.0%} of other orders "
        "of its choices"
    )
    scores = paired(subject, benchmark, options, records, {item.id: others for item, others in drawn})
    if scores:
        own = 100 * mean([usual for usual, _ in scores.values()])
        other = 100 * mean([score for _, others in scores.values() for score in others])
        says += f"; {own:.1f} % right in their own order, {other:.1f} % in others{_by_place(drawn, scores)}"
    return DetectorFinding(id="D3", statistic=test.place, p=test.p, flag=False, says=says)


def other_orders(benchmark: Benchmark, item: BenchmarkItem) -> Iterator[BenchmarkItem]:
    """The item with its choices in up to `ORDERS` different other orders, drawn at random."""
    shown = item.facts.get("options", item.choices)
    if any(_ABOUT_OTHERS.search(one) for one in shown) or all(_NUMBER.fullmatch(one) for one in shown):
        return
    usual = tuple(range(len(shown)))
    seen, random = {usual}, Rng("order of choices", item.digest)
    for _ in range(10 * ORDERS):
        order = tuple(random.shuffled(usual))
        if order in seen:
            continue
        seen.add(order)
        other = benchmark.reordered(item, order)
        if other is None:
            return
        yield other
        if len(seen) > ORDERS:
            return


def _by_place(
    drawn: Sequence[tuple[BenchmarkItem, Sequence[BenchmarkItem]]],
    scores: Mapping[str, tuple[float, Sequence[float]]],
) -> str:
    """How far the share of right answers depends on the place of the right choice, in words."""
    found: dict[int, list[float]] = {}
    for item, others in drawn:
        for other, score in zip(others, scores.get(item.id, (0.0, ()))[1], strict=False):
            found.setdefault(other.answer, []).append(score)
    shares = [100 * mean(one) for one in found.values()]
    return f" ({min(shares):.1f} to {max(shares):.1f} by the place of the right choice)"
