"""Items against indexes: planted ones are found and labelled, and what is not known is not called clean."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from coterie.contamination.index import ContaminationIndex
from coterie.contamination.items import QueriedItem
from coterie.contamination.query import QueryRules, query
from coterie.results.contamination import ContaminationRecord, IndexFacts
from tests.contamination.support import facts, index_of, items, words


def ask(asked: Sequence[QueriedItem], *indexes: ContaminationIndex, **rules: object) -> ContaminationRecord:
    return query(asked, "0" * 64, [(facts(one), one) for one in indexes], QueryRules.from_dict(rules))


def documents(count: int, seed: int = 7) -> list[str]:
    rng = random.Random(seed)
    return [words(rng, 100) for _ in range(count)]


INSTRUCTION = "End with one line that begins with the word Answer and holds the answer alone."


def test_planted_items_are_found_and_no_others():
    asked, rng = items(60), random.Random(1)
    texts = documents(200)
    for item in asked[:20]:
        texts.append(
            f"{words(rng, 20)}\nQuestion: {item.question}\nAnswer: {item.answers[0]}\n{words(rng, 9)}"
        )
    texts += [f"{words(rng, 20)} {item.question} {words(rng, 20)}" for item in asked[20:40]]
    found = ask(asked, index_of(texts))
    assert [one.kind for one in found.findings] == ["contaminated"] * 40 + ["clean"] * 20
    assert [one.label for one in found.findings] == ["question+answer"] * 20 + ["question_only"] * 20 + [
        None
    ] * 20
    assert all(22 <= one.longest_run <= 30 for one in found.findings[:40])
    assert all(one.overlap == 1 for one in found.findings[:40])


@pytest.mark.parametrize("shared", [13, 14, 20])
def test_every_item_that_shares_thirteen_units_is_found(shared: int):
    asked, rng = items(200, seed=shared), random.Random(2)
    texts = documents(50)
    for item in asked:
        own = item.question.split()
        at = rng.randrange(len(own) - shared + 1)
        texts.append(f"{words(rng, 20)} {' '.join(own[at : at + shared])} {words(rng, 20)}")
    found = ask(asked, index_of(texts))
    assert found.count("contaminated") == 200
    assert all(8 <= one.longest_run <= shared for one in found.findings)


def test_a_sketch_finds_what_the_exact_index_finds():
    asked = items(100)
    index = index_of([*documents(300), *(item.question for item in asked[:50])])
    exact, sketched = ask(asked, index), ask(asked, index.sketch(1e-4))
    assert exact.classes() == sketched.classes()


def test_a_find_that_may_be_chance_is_unscannable():
    """At a rate of 0.3 a sketch finds parts of every item; nothing follows from that."""
    sketch = index_of(documents(300)).sketch(0.3)
    found = ask(items(50), sketch)
    assert found.count("contaminated") == 0
    assert found.count("unscannable") >= 45
    assert "by chance" in next(one for one in found.findings if one.kind == "unscannable").why


def test_a_passage_alone_is_labelled():
    rng = random.Random(3)
    passage = words(rng, 60)
    answer = " ".join(passage.split()[10:22])  # quoted from the passage, so it says nothing about the item
    item = QueriedItem("a", words(rng, 9) + "?", (answer,), (), passage)
    found = ask([item], index_of([*documents(20), passage])).findings[0]
    assert (found.kind, found.label) == ("contaminated", "passage_only")
    assert ask([item], index_of(documents(20))).findings[0].kind == "clean"


def test_short_items_are_found_whole_or_unscannable():
    asked = [QueriedItem("in", "What is the capital of Zub?", ("Quang",)),
             QueriedItem("other", "What is the capital of Zub?", ("Lor",)),
             QueriedItem("out", "Who painted the green door?", ("Mira",)),
             QueriedItem("tiny", "2+2?", ("4",))]  # fmt: skip
    for text in (
        "Q: What is the capital of Zub?\nA: Quang\n",
        "user\nWhat is the capital of Zub?\nassistant\nQuang",
    ):
        found = ask(asked, index_of([*documents(5), text, "2+2? 4"]))
        assert [one.kind for one in found.findings] == ["contaminated"] + ["unscannable"] * 3
        assert "of which 13 are needed" in found.findings[2].why


def test_choices_show_the_answer():
    rng = random.Random(4)
    item = QueriedItem("a", words(rng, 20) + "?", ("blue", "B"), ("red", "blue"))
    with_answer = f"{item.asked}\nAnswer: B\n"
    found = [ask([item], index_of([*documents(5), text])).findings[0] for text in (with_answer, item.asked)]
    assert [one.label for one in found] == ["question+answer", "question_only"]


def test_text_that_many_documents_have_flags_nothing():
    """A footer that stands in 30 of 300 documents is common; an item that consists of it is unscannable."""
    rng = random.Random(5)
    footer = words(rng, 25)
    texts = documents(300)
    texts[:30] = [f"{text} {footer}" for text in texts[:30]]
    asked = [
        QueriedItem("only", footer + "?", ("x",)),
        QueriedItem("more", f"{footer} {words(rng, 20)}?", ("x",)),
    ]
    assert [one.kind for one in ask(asked, index_of(texts)).findings] == ["unscannable", "clean"]
    few = [f"{text} {footer}" for text in documents(12)]
    assert ask(asked, index_of([*documents(300, 9), *few])).findings[0].kind == "contaminated"


def test_text_that_one_source_repeats_flags_nothing():
    """21 of 100,000 documents are no large share of all, and a large one of their source."""
    rng = random.Random(6)
    footer = words(rng, 25)
    texts = [f"{text} {footer}" for text in documents(21)]
    index = index_of([*texts, *documents(50, 8)], ["site"] * 21 + ["other"] * 50)
    item = QueriedItem("a", footer + "?", ("x",))
    rare = {"common_share": 0.9}
    assert ask([item], index, **rare).findings[0].kind == "unscannable"
    assert ask([item], index, source_share=0.99 + 0.01, **rare).findings[0].kind == "contaminated"


def test_the_template_of_the_items_flags_nothing():
    rng = random.Random(77)
    template = words(rng, 20)
    asked = [QueriedItem(f"{at}", f"{template} {words(rng, 20)}?", ("x",)) for at in range(30)]
    texts = [*documents(50), f"{words(rng, 9)} {template} {words(rng, 9)}", asked[3].question]
    found = ask(asked, index_of(texts))
    assert [one.id for one in found.findings if one.kind == "contaminated"] == ["3"]
    assert found.count("clean") == 29
    assert 13 <= found.findings[3].longest_run <= 22  # of the grams that are mostly its own words


def test_one_word_and_an_instruction_say_nothing():
    """Items of one instruction; one ends in the same word as an item that is in the training data."""
    rng = random.Random(78)
    asked = [
        QueriedItem(f"{at}", f"{words(rng, 20)} {'same' if at < 2 else words(rng, 1)} {INSTRUCTION}", ("x",))
        for at in range(30)
    ]
    found = ask(asked, index_of([*documents(50), asked[0].question]))
    assert [one.id for one in found.findings if one.kind == "contaminated"] == ["0"]
    assert found.count("clean") == 29


def test_an_item_is_clean_only_if_every_stage_says_so():
    asked = items(3)
    first, second = index_of(documents(5)), index_of([asked[1].question])
    found = ask(asked, first, second)
    assert [one.kind for one in found.findings] == ["clean", "contaminated", "clean"]
    missing = IndexFacts(stage="tune", digest=None, kind="none", documents=0, tokens=0, coverage=0.0)
    stages = [(facts(second), second), (missing, None)]
    strict = query(asked, "0" * 64, stages)
    assert [one.kind for one in strict.findings] == ["unscannable", "contaminated", "unscannable"]
    assert strict.findings[0].why == "stage tune has no index"
    partial = query(asked, "0" * 64, stages, QueryRules(partial=True))
    assert [one.kind for one in partial.findings] == ["clean", "contaminated", "clean"]
    assert query(asked, "0" * 64, []).count("unscannable") == 3


def test_clean_twins_are_never_flagged():
    """200 seeds of text that has no item: no flag at all, so the rate is below alpha = 0.015 at 95 %."""
    asked = items(20)
    for seed in range(200):
        assert ask(asked, index_of(documents(10, 1000 + seed))).count("contaminated") == 0
