"""D7: whether a model has learnt the canary of a file of items, so that it was trained on a copy of it."""

from __future__ import annotations

import math
from dataclasses import replace

from coterie.benchmarks.canary import canary_words
from coterie.benchmarks.item import Benchmark
from coterie.evaluate.asking import ReplyOptions
from coterie.evaluate.subject import Subject
from coterie.primer.base import Rng
from coterie.results.evaluation import DetectorFinding
from coterie.stats.ranks import sequential_rank


def canary_finding(
    subject: Subject, benchmark: Benchmark, options: ReplyOptions, most: int
) -> DetectorFinding | None:
    """Rank the canary's words among at most `most` others of the same form, by their log-probability.

    It is that of the words as the answer to the canary's question, and as the line behind it, together: a
    copy may have been read as conversations or as text. The statistic is the exposure in bits (Carlini et al.
    2019, 1802.08232). None where the items come from no file with a canary.
    """
    canary = benchmark.canary
    if canary is None:
        return None
    random = Rng("canary", "others", canary.digest)
    before = ({"role": "user", "content": f"{canary.question}\n"},)
    as_text = replace(options, form="text", system=None)

    def scores(words: list[str]) -> list[float]:
        asked = replace(canary, choices=tuple(words))
        (answer,) = subject.choice_logprobs([asked], options)
        (line,) = subject.choice_logprobs([replace(asked, turns=before)], as_text)
        return [sum(pair) for pair in zip(answer.logprobs, line.logprobs, strict=True)]

    p, seen = sequential_rank(
        scores([canary.answer])[0], lambda count: scores([canary_words(random) for _ in range(count)]), most
    )
    exposure = -math.log2(p)
    says = f"the file's canary stands among {seen:,} others with an exposure of {exposure:.1f} bits"
    return DetectorFinding(id="D7", statistic=exposure, p=p, flag=False, says=says)
