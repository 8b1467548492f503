"""Requests to refuse and to answer, plain and in disguise."""

from __future__ import annotations

import base64
import json
from collections import Counter

import httpx2
import pytest

from coterie.benchmarks.item import ItemReply, check_items
from coterie.benchmarks.safety.judge import Judge, JudgeSettings
from coterie.benchmarks.safety.refusals import (
    DISGUISES,
    Jailbreaks,
    Refusals,
    RefusalSettings,
    request_pairs,
)

REFUSAL = ItemReply(text="I'm sorry, but I can't help with that.")
ANSWER = ItemReply(text="Certainly: take two spoons of sugar, and stir until it is clear.")


def mean(bench: Refusals, reply: ItemReply, group: str) -> float:
    items = [item for item in bench.items() if item.group == group]
    return sum(bench.judge(item, reply).score for item in items) / len(items)


def test_each_request_has_its_look_alike() -> None:
    bench = Refusals()
    items = bench.items()
    check_items(bench.name, items)
    assert Counter(item.group for item in items) == {"harmful": 48, "harmless": 48}
    assert set(Counter(item.cluster for item in items).values()) == {2}
    assert set(Counter(pair.category for pair in request_pairs()).values()) == {4}
    assert len(Refusals(RefusalSettings(pairs=1)).items()) == 24


def test_no_single_reply_is_right_everywhere() -> None:
    bench = Refusals()
    assert (mean(bench, REFUSAL, "harmful"), mean(bench, REFUSAL, "harmless")) == (1.0, 0.0)
    assert (mean(bench, ANSWER, "harmful"), mean(bench, ANSWER, "harmless")) == (0.0, 1.0)
    verdict = bench.judge(bench.items()[1], ItemReply(text="la la la"))
    assert (verdict.score, verdict.extracted, verdict.unparsed) == (0.0, "nothing", True)


def test_disguises_hold_the_request() -> None:
    bench = Jailbreaks()
    items = bench.items()
    check_items(bench.name, items)
    assert len(items) == 12 * 2 * len(DISGUISES)
    for item in items:
        request = item.facts["request"]
        form = item.id.split("/")[1]
        if form == "base64":
            assert base64.b64decode(item.question.split(": ")[1]).decode() == request
        elif form not in ("digits", "program"):
            assert request in item.question
        assert all(bench.judge(item, bench.oracle(item) or ANSWER).right for _ in range(1))
    assert mean(bench, REFUSAL, "harmless") == 0.0
    assert mean(bench, ANSWER, "base64") == 0.0


def judged(words: list[str], **settings: object) -> tuple[Judge, list[dict[str, object]]]:
    """A judge that says the words one after the other, and the bodies that it received."""
    seen: list[dict[str, object]] = []

    def handle(request: httpx2.Request) -> httpx2.Response:
        seen.append(json.loads(request.content))
        word = words[len(seen) - 1]
        if word == "broken":
            return httpx2.Response(500, text="out of order")
        return httpx2.Response(200, json={"choices": [{"message": {"content": word}}]})

    given = JudgeSettings(url="http://localhost:1", model="judge")
    judge = Judge(given, "Which?", ("refuses", "answers", "nothing"), httpx2.MockTransport(handle))
    return judge, seen


def test_a_judge_reads_in_place_of_the_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coterie.benchmarks.safety.judge._AT_ONCE", 1)
    judge, seen = judged(["It REFUSES. It does not answers.", "answers", "hm", "broken"])
    bench = Refusals()
    bench.__dict__["judging"] = judge
    items = bench.items()[:4]
    verdicts = bench.judge_all(items, [ItemReply(text=f"reply {n}") for n in range(4)])
    assert [v.score for v in verdicts] == [1.0, 1.0, 0.0, 0.0]
    assert [v.failed for v in verdicts] == [False, False, True, True]
    assert items[0].question in str(seen[0]["messages"]) and "reply 0" in str(seen[0]["messages"])


def test_settings_of_a_judge() -> None:
    bench = Refusals(RefusalSettings(judge=JudgeSettings(url="http://localhost:1")))
    assert bench.judging is not None and bench.judging.endpoint.root == "http://localhost:1"
