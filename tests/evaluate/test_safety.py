"""The safety section from records, and two models on the same items."""

from __future__ import annotations

import pytest

from coterie.benchmarks import load_benchmark
from coterie.benchmarks.arithmetic import Arithmetic
from coterie.benchmarks.item import Benchmark, ItemReply
from coterie.config import DataError
from coterie.evaluate.safety import safety_changes, safety_facts
from coterie.report.safety_text import safety_markdown
from coterie.results.accuracy import accuracy
from coterie.results.evaluation import (
    ExtractionFacts,
    ItemRecord,
    PromptFacts,
    SamplesFile,
    TaskResult,
    TaskScore,
)
from coterie.results.intervals import Estimate
from coterie.results.safety import MemorisedFacts

REFUSAL = ItemReply(text="I'm sorry, but I can't help with that.")


def records(benchmark: Benchmark, reply: ItemReply | None, limit: int | None = None) -> list[ItemRecord]:
    """Records of one reply to every item; None: the right reply."""
    found = []
    for item in list(benchmark.items())[:limit]:
        verdict = benchmark.judge(item, reply or benchmark.oracle(item) or ItemReply())
        found.append(
            ItemRecord(
                task=benchmark.name,
                id=item.id,
                digest=item.digest,
                cluster=item.cluster,
                prompt="",
                score=verdict.score,
                right=verdict.right,
                extracted=verdict.extracted,
            )
        )
    return found


def result(benchmark: Benchmark, lines: list[ItemRecord]) -> TaskResult:
    groups = {item.id: item.group for item in benchmark.items()}
    shares = {
        group: accuracy([line.right for line in lines if groups[line.id] == group])
        for group in groups.values()
    }
    return TaskResult(
        id=benchmark.name,
        version="1",
        mode="reply",
        items="",
        n=len(lines),
        cluster_key="",
        prompt=PromptFacts(form="chat", template="", extractor=""),
        score=TaskScore(value=0.5, low=0, high=1, metric="accuracy", method="", clusters=1),
        groups={name: Estimate(value=s.value, low=s.low, high=s.high) for name, s in shares.items()},
        extraction=ExtractionFacts(unparsed=0, truncated=0, failed=0),
        samples=SamplesFile(path="", rows=len(lines), merkle_root=""),
    )


def test_the_section_says_what_was_found_and_what_not() -> None:
    refusals, toxicity = load_benchmark("safety-refusals"), load_benchmark("safety-toxicity")
    refused = records(refusals, REFUSAL)
    refused[0] = refused[0].model_copy(update={"failed": True})
    insults = records(toxicity, ItemReply(text="You idiot."))
    scored = [
        (bench, result(bench, lines), lines) for bench, lines in ((refusals, refused), (toxicity, insults))
    ]
    facts = safety_facts([*scored, (Arithmetic(), scored[0][1], [])])
    assert facts is not None and facts.rules is not None
    harmful, harmless, neutral, _ = facts.measures
    assert harmful.found == {"refuses": 47, "not decided": 1} and harmful.items == 48
    assert harmless.share is not None and harmless.share.value == 0.0
    assert neutral.found == {"abusive": 16}
    text = safety_markdown(facts)
    assert "| answers harmless ones that look like them | 0% | 0% to 7% | 48 | 48 refuses |" in text
    assert "idiot" not in text and "What this does not measure:" in text
    assert text.count("\n- ") == len(facts.not_measured) > 4


def test_no_section_without_the_battery() -> None:
    assert safety_facts([]) is None
    share = accuracy([False] * 30)
    known = MemorisedFacts(prefix=50, run=50, looked=200, trained=share, longest=7)
    facts = safety_facts([], known)
    assert facts is not None and facts.rules is None
    assert "no control" in safety_markdown(facts)


def test_tuning_that_makes_a_model_refuse_everything_is_seen_on_both_sides() -> None:
    bench = load_benchmark("safety-refusals")
    answer = ItemReply(text="Gladly: begin with a clear table and go on.")
    before, after = records(bench, answer), records(bench, REFUSAL)
    harmful, harmless = safety_changes([bench], {bench.name: before}, {bench.name: after})
    assert (harmful.verdict, harmless.verdict) == ("better", "worse")
    assert harmful.change.gained == 48 and harmless.change.lost == 48
    same = safety_changes([bench], {bench.name: before}, {bench.name: before})
    assert [row.change.p for row in same] == [1.0, 1.0] and same[0].verdict == "no change shown"
    with pytest.raises(DataError, match="not given the same items"):
        safety_changes([bench], {bench.name: before}, {bench.name: after[1:]})
