"""The generated families: answers worked out again by other means, grids, calibration, abstention."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coterie.benchmarks import ItemReply, load_benchmark
from coterie.benchmarks.confidence import calibration
from coterie.config import ConfigError
from coterie.sandbox.schemas import problem


def test_lists() -> None:
    for item in load_benchmark("lists", n=120).items():
        words = item.question.split(": ")[1].split("\n")[0].split()
        operation = item.cluster.split()[0]
        if operation == "sort":
            assert item.answer.split() == sorted(words)
        if operation == "longest":
            assert all(len(word) < len(item.answer) for word in words if word != item.answer)
        if operation in ("copy", "reverse", "sort"):
            assert sorted(item.answer.split()) == sorted(words)
        if operation == "count":
            assert int(item.answer) == len("".join(words))


def test_multilingual_sorting_is_that_of_the_alphabet() -> None:
    benchmark = load_benchmark("multilingual", n=200)
    for item in benchmark.items():
        words = item.question.split(": ")[1].split("\n")[0].split()
        assert len(words) == 5 == len(set(words))
        if item.cluster.startswith("sort"):
            assert [word[0].casefold() for word in item.answer.split()] == sorted(
                word[0].casefold() for word in words
            )
    assert len({item.group for item in benchmark.items()}) == 15


def test_word_problems_are_as_the_text_says() -> None:
    for item in load_benchmark("word-problems", n=144).items():
        text = item.question
        numbers = [int(number) for number in re.findall(r"\d+", text)]
        template, answer = item.cluster.split()[0], int(item.answer)
        assert answer > 0
        if template == "gives":
            assert answer == numbers[0] - numbers[1]
        if template == "share":
            assert answer * numbers[0] == numbers[1]
        if template in ("boxes", "travel"):
            assert answer == numbers[0] * numbers[1] + numbers[2]
        if template == "change":
            assert answer == numbers[0] - numbers[1] * numbers[2]
        if template == "rows":
            assert answer == numbers[0] * numbers[1] + numbers[2] * numbers[3]
        if template == "days":
            daily = [numbers[0] + numbers[1] * day for day in range(numbers[2])]
            assert answer == daily[-1]


def test_long_contexts_have_their_length_and_depth() -> None:
    benchmark = load_benchmark("long-context", lengths=[1500, 6000], n=68)
    for item in benchmark.items():
        length, (kind, depth) = int(item.group.split()[0]), item.cluster.split("/")[0].split()
        assert length - 120 < len(item.passage) <= length
        assert item.question.startswith(item.passage)
        if kind in ("needle", "distractors"):
            assert item.passage.count(item.answer) == 1
            place = item.passage.index(item.answer) / length
            assert abs(place - int(depth) / 100) < (0.12 if kind == "needle" else 0.25)
        if kind == "variables":
            name = item.question.split("Which number is ")[1].split("?")[0]
            known = dict(re.findall(r"Let (\w+) be (?:the same as )?(\w+)\.", item.passage))
            while not name.isdigit():
                name = known[name]
            assert name == item.answer
        if kind == "counting":
            notes = re.findall(r"Note: (\w+)\.", item.passage)
            assert max(set(notes), key=notes.count) == item.answer
    several = next(item for item in benchmark.items() if "," in item.answer)
    turned = ", ".join(several.answer.split(", ")[::-1])
    assert benchmark.judge(several, ItemReply(text=f"Answer: {turned}")).right
    assert not benchmark.judge(several, ItemReply(text=f"Answer: {turned[:-3]}")).right


@pytest.mark.parametrize("lengths", [[], [100], [1000, 1000], [3_000_000]])
def test_unusable_lengths(lengths: list[int]) -> None:
    with pytest.raises(ConfigError, match="benchmark long-context: 'lengths'"):
        load_benchmark("long-context", lengths=lengths)


def test_structured_values_fit_their_schema() -> None:
    benchmark = load_benchmark("structured", n=30)
    for item in benchmark.items():
        assert problem(item.answer, item.facts["schema"]) is None
        text = json.dumps(item.answer)
        wrong = text.replace("true", "1") if "true" in text else text.replace("2", "3").replace("1", "2")
        for reply, score, lenient in (
            (text, 1, 1),
            (json.dumps(item.answer, indent=2), 1, 1),
            (f"Sure:\n```json\n{text}\n```", 0, 1),
            (f"It is {text}.", 0, 1),
            (f'{{"value": {text}}}', 0, 0),
            (wrong, float(wrong == text), float(wrong == text)),
        ):
            verdict = benchmark.judge(item, ItemReply(text=reply))
            assert (verdict.score, verdict.lenient) == (score, lenient), reply


def test_calibration_by_hand() -> None:
    assert calibration([], []) == {}
    facts = calibration([True, True, False, False], [0.95, 0.95, 0.95, 0.15])
    assert facts["brier"] == pytest.approx((2 * 0.05**2 + 0.95**2 + 0.15**2) / 4)
    # One bin holds three replies with accuracy 2/3, the other one reply that is wrong.
    assert facts["ece"] == pytest.approx((3 * abs(2 / 3 - 0.95) + 0.15) / 4)
    assert facts["overconfidence"] == pytest.approx(3.0 / 4 - 0.5)


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1)), min_size=1))
def test_calibration_is_bounded(pairs: list[tuple[bool, float]]) -> None:
    facts = calibration([right for right, _ in pairs], [p for _, p in pairs])
    assert 0 <= facts["brier"] <= 1 and abs(facts["overconfidence"]) - 1e-9 <= facts["ece"] <= 1 + 1e-9
    perfect = calibration([right for right, _ in pairs], [float(right) for right, _ in pairs])
    assert perfect["brier"] == perfect["ece"] == perfect["overconfidence"] == 0


def test_stated_confidence() -> None:
    benchmark = load_benchmark("calibration", n=20)
    item = benchmark.items()[0]
    found = [
        benchmark.judge(item, ItemReply(text=text.format(item.answer)))
        for text in (
            "Confidence: 80\nAnswer: {}",
            "Confidence: 80 %\nAnswer: 123456",
            "Answer: {}",
            "Confidence: 120\nAnswer: {}",
        )
    ]
    assert [one.confidence for one in found] == [0.8, 0.8, None, None]
    assert [one.score for one in found] == [1, 0, 1, 1]
    assert [one.unparsed for one in found] == [False, False, True, True]
    extras = benchmark.extras([item] * 4, found)
    assert extras["brier"] == pytest.approx((0.2**2 + 0.8**2) / 2) and extras["stated"] == 2


def test_abstention_counts_both_faults() -> None:
    benchmark = load_benchmark("abstention", n=90)
    items = benchmark.items()
    assert sum(item.answer == "unknown" for item in items) == 45
    for item in items:
        name = re.findall(r"(?:does|is|did) (\w+)", item.question.split("\n")[1])[0]
        assert (name in item.passage) == (item.answer != "unknown")
    always = [benchmark.judge(item, ItemReply(text="Answer: Unknown")) for item in items]
    assert benchmark.extras(items, always) == {"invented": 0, "held_back": 1}
    never = [benchmark.judge(item, ItemReply(text="Answer: lamp")) for item in items]
    assert benchmark.extras(items, never) == {"invented": 1, "held_back": 0}


def test_facts_about_passages_follow_from_them() -> None:
    for item in load_benchmark("facts", n=190).items():
        assert len(set(item.choices)) == 4 and 0 <= item.answer < 4
        right = item.choices[item.answer]
        if item.cluster.startswith("holding"):
            name = item.question.split("What does ")[1].split()[0]
            assert re.search(rf"{name} has a \w+ {right}\.", item.passage)
        if item.cluster.startswith("largest"):
            assert int(right) == max(map(int, item.choices))
