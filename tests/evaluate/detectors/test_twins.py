"""D2 finds a model that knows the items by heart, and lets one that does not pass."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from coterie.benchmarks.item import Benchmark, BenchmarkItem, ItemReply, ItemVerdict
from coterie.evaluate.asking import Form, ReplyOptions
from coterie.evaluate.detectors.correction import ALPHA
from coterie.evaluate.detectors.twins import twin_finding
from coterie.evaluate.scoring import score_benchmark
from coterie.evaluate.subject import Environment, no_tools
from coterie.results.evaluation import DetectorFinding, ExecProfile, ModelIdentity, PromptFacts

TEMPLATES, EACH = 12, 3


def item(id: str, template: int) -> BenchmarkItem:
    return BenchmarkItem(id, ({"role": "user", "content": id},), f"answer {id}", cluster=str(template))


class Templates(Benchmark):
    name, says = "templates", "items of a few templates"

    def items(self) -> Sequence[BenchmarkItem]:
        return [item(f"{t}-{n}", t) for t in range(TEMPLATES) for n in range(EACH)]

    def judge(self, item: BenchmarkItem, reply: ItemReply) -> ItemVerdict:
        return ItemVerdict(score=float(reply.text == item.answer), extracted=reply.text)

    def twins(self, item: BenchmarkItem, count: int) -> Sequence[BenchmarkItem]:
        other = f"{item.id} twin "
        return [
            BenchmarkItem(
                f"{other}{n}", ({"role": "user", "content": f"{other}{n}"},), f"answer {other}{n}",
                cluster=item.cluster,
            )
            for n in range(count)
        ]  # fmt: skip


class Guesser:
    """Right on the share `known` of items and `able` of all others, by a hash of the question."""

    identity, profile = (
        ModelIdentity(name="g", weights_tensors=None),
        ExecProfile(engine="t", version="1", dtype=""),
    )

    def __init__(self, known: float, able: float, seed: int = 0) -> None:
        self.known, self.able, self.seed = known, able, seed

    def form(self, options: ReplyOptions) -> Form:
        return "plain"

    def facts(self, options: ReplyOptions, extractor: str) -> PromptFacts:
        return PromptFacts(form="plain", template="", extractor=extractor)

    def too_long(self, items: Sequence[BenchmarkItem], options: ReplyOptions, weigh: bool) -> dict[str, str]:
        return {}

    def replies(
        self, items: Sequence[BenchmarkItem], options: ReplyOptions, environment: Environment = no_tools
    ) -> list[ItemReply]:
        found = []
        for one in items:
            number = int.from_bytes(f"{self.seed} {one.question}".encode(), "big")
            rate = self.able if "twin" in one.question else self.known
            right = np.random.default_rng(number).random() < rate
            found.append(ItemReply(text=one.answer if right else "no"))
        return found


def finding(known: float, able: float, seed: int = 0, temperature: float = 0.0) -> DetectorFinding | None:
    subject, benchmark = Guesser(known, able, seed), Templates()
    options = ReplyOptions(temperature=temperature)
    records = score_benchmark(subject, benchmark, options).records  # type: ignore[arg-type]
    return twin_finding(subject, benchmark, options, records, items=50)  # type: ignore[arg-type]


def test_a_model_that_knows_the_items_has_a_small_p_value() -> None:
    found = finding(0.95, 0.4)
    assert found is not None and found.p is not None and found.statistic is not None
    assert found.p < 1e-4 and found.statistic > 0.3 and "36 items" in found.says and "180 new" in found.says
    assert not found.flag  # a flag is set over the whole report


def test_a_model_that_does_not_is_flagged_as_rarely_as_said() -> None:
    """The test's error is in tests/stats/test_ranks.py, over more runs."""
    ps = [found.p for seed in range(12) if (found := finding(0.9, 0.9, seed)) is not None]
    assert sum(p < ALPHA for p in ps if p is not None) <= 2  # of 12 at 1 %: more has probability 2e-4
    easier = finding(0.2, 0.9)
    assert easier is not None and easier.p is not None and easier.p > 0.99  # that is no contamination


def test_sampled_headlines_are_not_compared_with_greedy_twins(monkeypatch: pytest.MonkeyPatch) -> None:
    """At a temperature the items themselves are answered greedily again."""
    asked: list[str] = []
    replies = Guesser.replies

    def noted(self: Guesser, items: Sequence[BenchmarkItem], options: ReplyOptions, *rest: object):  # type: ignore[no-untyped-def]
        asked.extend(item.question for item in items if options.temperature == 0)
        return replies(self, items, options)

    monkeypatch.setattr(Guesser, "replies", noted)
    assert finding(0.5, 0.5, temperature=0.7) is not None
    assert {"0-0", "11-2"} < set(asked) and len(asked) == 36 * 6


def test_a_benchmark_without_twins_has_no_finding() -> None:
    class NoTwins(Templates):
        def twins(self, item: BenchmarkItem, count: int) -> Sequence[BenchmarkItem]:
            return ()

    subject = Guesser(0.5, 0.5)
    records = score_benchmark(subject, NoTwins(), ReplyOptions()).records  # type: ignore[arg-type]
    assert twin_finding(subject, NoTwins(), ReplyOptions(), records, 50) is None  # type: ignore[arg-type]
