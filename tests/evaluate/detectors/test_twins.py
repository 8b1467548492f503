"""D2 finds a model that knows the items by heart, and lets one that does not pass."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from coterie.benchmarks.item import Benchmark, BenchmarkItem, ItemReply, ItemVerdict
from coterie.evaluate.asking import Form, ReplyOptions
from coterie.evaluate.detectors.twins import ALPHA, gap_finding, one_sided, twin_finding
from coterie.evaluate.scoring import score_benchmark
from coterie.evaluate.subject import Environment, no_tools
from coterie.results.evaluation import ExecProfile, ModelIdentity, PromptFacts

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


def finding(known: float, able: float, seed: int = 0):  # type: ignore[no-untyped-def]
    subject, benchmark, options = Guesser(known, able, seed), Templates(), ReplyOptions()
    records = score_benchmark(subject, benchmark, options).records  # type: ignore[arg-type]
    return twin_finding(subject, benchmark, options, records)  # type: ignore[arg-type]


def test_a_model_that_knows_the_items_is_flagged() -> None:
    found = finding(0.95, 0.4)
    assert found.flag and found.statistic > 0.3 and "12 templates" in found.says


def test_a_model_that_does_not_is_flagged_as_rarely_as_said() -> None:
    flags = sum(finding(0.5, 0.5, seed).flag for seed in range(60))
    assert flags <= 4  # of 60 at 1 %: more has probability below 1e-3
    assert not finding(0.2, 0.9).flag  # twins that are easier are no contamination


def test_the_p_value_is_uniform_without_a_gap() -> None:
    random = np.random.default_rng(0)
    ps = [one_sided(random.normal(0, 1, 8)) for _ in range(2000)]
    assert np.mean(np.asarray(ps) < 0.05) == pytest.approx(0.05, abs=4 * (0.05 * 0.95 / 2000) ** 0.5)
    assert one_sided([0.0, 0.0]) == 1.0 and one_sided([1.0] * 8) < ALPHA
    assert not gap_finding([0.1, 0.1], 2).flag  # two templates prove nothing


def test_a_benchmark_without_twins_has_no_finding() -> None:
    class NoTwins(Templates):
        def twins(self, item: BenchmarkItem, count: int) -> Sequence[BenchmarkItem]:
            return ()

    subject = Guesser(0.5, 0.5)
    records = score_benchmark(subject, NoTwins(), ReplyOptions()).records  # type: ignore[arg-type]
    assert twin_finding(subject, NoTwins(), ReplyOptions(), records) is None  # type: ignore[arg-type]
