"""Verdicts that come with replies."""

from __future__ import annotations

from collections.abc import Sequence

from coterie.benchmarks.item import Benchmark, BenchmarkItem, ItemReply, ItemVerdict
from coterie.evaluate.harness.judged import AskedElsewhere, JudgedReply
from coterie.evaluate.invariance import why_not


class Elsewhere(AskedElsewhere, Benchmark):
    """One item of another program."""

    name, says = "there:one", "one item"

    def items(self) -> Sequence[BenchmarkItem]:
        return [BenchmarkItem("1", ({"role": "user", "content": "one"},), "1")]


def test_a_verdict_is_the_one_that_came_with_the_reply() -> None:
    benchmark = Elsewhere()
    (item,) = benchmark.items()
    verdict = ItemVerdict(0.25, extracted="x")
    assert benchmark.judge(item, JudgedReply(text="1", verdict=verdict)) is verdict
    for reply in (ItemReply(text="1"), JudgedReply(text="1")):
        assert benchmark.judge(item, reply).failed


def test_batches_of_another_program_cannot_be_chosen() -> None:
    assert "another program" in (why_not(Elsewhere()) or "")
