"""D5: how familiar the items' texts are, next to new ones of their templates: Min-K%++, never a verdict."""

from __future__ import annotations

from collections.abc import Sequence

from coterie.benchmarks.item import Benchmark
from coterie.evaluate.detectors.twins import TWINS
from coterie.evaluate.detectors.variants import judged_items, text_of
from coterie.evaluate.local_subject import LocalSubject
from coterie.evaluate.remote_subject import RemoteSubject
from coterie.evaluate.scoring import mean
from coterie.evaluate.subject import Subject
from coterie.evaluate.token_scores import standardised
from coterie.results.evaluation import DetectorFinding, ItemRecord
from coterie.stats.ranks import exchangeable

SHARE = 0.2  # of a text's tokens, the least likely ones


def familiarity_finding(
    subject: Subject, benchmark: Benchmark, records: Sequence[ItemRecord], items: int, twins: int = TWINS
) -> DetectorFinding | None:
    """Compare the texts of the first `items` judged items, answers included, with those of their twins.

    The statistic is the share of twins that are less familiar than their item, 0.5 for a model that knows
    none. Tests of membership do little better than chance where texts are alike, so it has no p value and
    no flag. None where the benchmark makes no twins, or the subject tells no log-probabilities of tokens.
    """
    drawn = [
        (item, found)
        for item in judged_items(benchmark, records, items)
        if (found := benchmark.twins(item, twins))
    ]
    texts = [text_of(one) for item, found in drawn for one in (item, *found)]
    scores, name = _familiarity(subject, texts)
    if not scores:
        return None
    place = exchangeable([(scores.pop(0), [scores.pop(0) for _ in found]) for _, found in drawn]).place
    says = (
        f"{len(drawn)} items are more familiar than {place:.0%} of their twins ({name}; 50% by chance); this "
        "is information, not a test"
    )
    return DetectorFinding(id="D5", statistic=place, flag=False, says=says)


def min_k(values: Sequence[float], share: float = SHARE) -> float:
    """The mean over the lowest `share` of values, at least one of them."""
    return mean(sorted(values)[: max(1, round(share * len(values)))])


def _familiarity(subject: Subject, texts: Sequence[str]) -> tuple[list[float], str]:
    """A number for each text, higher for a more familiar one, and its name; none where there are none."""
    if isinstance(subject, LocalSubject) and texts:
        return [min_k(found) for found in standardised(subject, texts)], "Min-K%++"
    if isinstance(subject, RemoteSubject) and texts:
        return [min_k(found) for found in subject.token_logprobs(texts)], "Min-K%"
    return [], ""
