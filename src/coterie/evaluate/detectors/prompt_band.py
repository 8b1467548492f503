"""D6: where a score stands among those of other wordings that mean the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from coterie.benchmarks.item import Benchmark, BenchmarkItem
from coterie.evaluate.asking import ReplyOptions
from coterie.evaluate.subject import Subject
from coterie.results.evaluation import DetectorFinding, ItemRecord, PromptBand

HIGHEST = 0.9  # of the band: a headline above this share of the wordings was chosen well


def prompt_band(
    subject: Subject,
    benchmark: Benchmark,
    options: ReplyOptions,
    records: Sequence[ItemRecord],
    wordings: int,
    items: int,
) -> PromptBand | None:
    """Scores of the first `items` judged items under at most `wordings` others; None where there are none.

    `records`: of the usual wording. A wording's replies are greedy, as cheap as they can be.
    """
    usual = {record.id: record.score for record in reversed(records) if not record.failed}
    asked = [item for item in benchmark.items() if item.id in usual][:items]
    asked = [item for item in asked if benchmark.rewordings(item)]
    count = min([wordings, *(len(benchmark.rewordings(item)) for item in asked)])
    if not asked or not count:
        return None
    greedy = replace(options, temperature=0.0, seed=None)
    scores = []
    for number in range(count):
        others = [reworded(item, benchmark.rewordings(item)[number]) for item in asked]
        if benchmark.mode == "choice":
            replies = subject.choice_logprobs(others, greedy)
        else:
            replies = subject.replies(others, greedy, benchmark.environment)
        verdicts = benchmark.judge_all(others, replies)
        scores.append(float(np.mean([0.0 if one.failed else one.score for one in verdicts])))
    headline = float(np.mean([usual[item.id] for item in asked]))
    below = sum(score < headline for score in scores) + sum(score == headline for score in scores) / 2
    return PromptBand(
        count=count,
        items=len(asked),
        low=min(scores),
        median=float(np.median(scores)),
        high=max(scores),
        percentile=below / count,
    )


def band_finding(band: PromptBand) -> DetectorFinding:
    """Flagged where the usual wording does better than nine of ten others."""
    says = (
        f"{band.count} other wordings of {band.items} items: {band.low:.1%} to {band.high:.1%}, median "
        f"{band.median:.1%}; the usual one is above {band.percentile:.0%} of them"
    )
    return DetectorFinding(id="D6", statistic=band.percentile, flag=band.percentile > HIGHEST, says=says)


def reworded(item: BenchmarkItem, text: str) -> BenchmarkItem:
    """The item with another last message."""
    return replace(item, turns=(*item.turns[:-1], {**item.turns[-1], "content": text}))
