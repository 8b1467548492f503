"""Known items are found in the documents that hold them, by their words, and nowhere else."""

from __future__ import annotations

import random

import pytest

from coterie.contamination.items import QueriedItem
from coterie.contamination.scan import ItemScanner, scan_all
from tests.contamination.support import items, words


def test_documents_that_hold_items_are_named():
    asked, rng = items(30), random.Random(21)
    texts = [words(rng, 80) for _ in range(600)]
    for at in range(20):  # in other letters and with other punctuation
        texts[at * 29] = f"{words(rng, 30)}\n\n## {asked[at].question.upper()}!\n{words(rng, 30)}"
    found = list(scan_all(ItemScanner(asked), texts, size=50))
    assert [(one.document, one.item, one.units) for one in found] == [
        (at * 29, f"item-{at}", 30) for at in range(20)
    ]
    assert found[0].words == " ".join(asked[0].question.split()[:12])


@pytest.mark.parametrize(("shared", "is_found"), [(12, False), (13, True), (14, True)])
def test_the_run_must_be_long_enough(shared: int, is_found: bool):
    asked, rng = items(40, seed=5), random.Random(22)
    texts = [
        f"{words(rng, 20)} {' '.join(one.question.split()[5 : 5 + shared])} {words(rng, 20)}" for one in asked
    ]
    found = list(ItemScanner(asked).scan(texts))
    assert [one.document for one in found] == (list(range(40)) if is_found else [])
    assert all(one.units == shared for one in found)


def test_a_short_answer_or_question_is_found_whole():
    rng = random.Random(23)
    nine = words(rng, 9)
    asked = [
        QueriedItem("nine", nine, ("x",)),
        QueriedItem("short", "What is the capital of Zub?", ("Quang",)),
    ]
    texts = [
        f"{words(rng, 9)} {nine} {words(rng, 9)}",
        words(rng, 60),
        "Q: What is the capital of Zub?\nA: Quang",
    ]
    found = list(ItemScanner(asked).scan(texts))
    assert [(one.document, one.item, one.units) for one in found] == [(0, "nine", 9), (2, "short", 7)]


def test_the_template_of_the_items_is_not_an_item():
    rng = random.Random(24)
    template = words(rng, 20)
    asked = [QueriedItem(str(at), f"{template} {words(rng, 20)}", ("x",)) for at in range(10)]
    assert not list(ItemScanner(asked).scan([f"{words(rng, 9)} {template} {words(rng, 9)}"]))
    assert [one.item for one in ItemScanner(asked).scan([asked[4].question])] == ["4"]


def test_no_texts_hold_nothing():
    assert not list(scan_all(ItemScanner(items(2)), []))
