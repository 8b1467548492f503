"""Every instruction on hand-made replies, the language by rules, and properties."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.benchmarks.checks import CHECKS, NEEDED, follows, loosened, sentences
from coterie.benchmarks.instructions import _KINDS
from coterie.benchmarks.languages import known_languages, spoken
from coterie.primer.base import Rng

# Name, arguments, a reply that follows, one that does not.
CASES: list[tuple[str, dict[str, Any], str, str]] = [
    ("keywords:existence", {"keywords": ["sun", "Sea"]}, "The SUN and the sea", "The sun"),
    ("keywords:frequency", {"keyword": "a b", "frequency": 2, "relation": "at least"}, "a b A B", "a b"),
    ("keywords:frequency", {"keyword": "x", "frequency": 2, "relation": "less than"}, "x", "x x"),
    ("keywords:forbidden_words", {"forbidden_words": ["sun"]}, "a sunny day", "the Sun."),
    (
        "keywords:letter_frequency",
        {"letter": "E", "let_frequency": 2, "let_relation": "at least"},
        "Eel",
        "el",
    ),
    ("language:response_language", {"language": "de"}, "Das ist der Hund", "That is the dog"),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 2, "relation": "at least"},
        "One. Two.",
        "Dr. A. Smith is here.",
    ),
    ("length_constraints:number_sentences", {"num_sentences": 2, "relation": "less than"}, "One", "1! 2?"),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "a\n***\nb", "a\n\nb"),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "***a***b***", "a***\n***b"),
    (
        "length_constraints:number_words",
        {"num_words": 3, "relation": "at least"},
        "one, two three",
        "one two",
    ),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "So"},
        "a b\n\n'so, it is",
        "so\n\nit is",
    ),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "[name] [date]", "[name]"),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "Bye\nP.S. more", "Bye PS"),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, "p. p. s. x", "P.S. x"),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* a\n - b\n**c**", "* a"),
    ("detectable_format:constrained_response", {}, "My answer is no.", "no"),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, "*a* and **b**", "*a* ** **"),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "Day", "num_sections": 2},
        "Day 1\na\nDay 2\nb",
        "Day one, Day two",
    ),
    ("detectable_format:json_format", {}, '```json\n{"a": 1}\n```', '{"a": 1'),
    ("detectable_format:title", {}, "<<A title>>\nText", "<< >>"),
    ("combination:two_responses", {}, "a\n******\nb", "a\n******\na"),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say hello"}, "say HELLO hello", "hello"),
    ("startend:end_checker", {"end_phrase": "The end."}, "It is the END.", "The end. No."),
    ("startend:quotation", {}, ' "a" ', '"a'),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": "at least"},
        "A BIG dog",
        "Big dog",
    ),
    ("change_case:english_capital", {}, "HELLO, 3 DOGS", "HELLO Dogs"),
    ("change_case:english_lowercase", {}, "hello, 3 dogs", "Hello"),
    ("punctuation:no_comma", {}, "a; b", "a, b"),
]


@pytest.mark.parametrize(("name", "arguments", "right", "wrong"), CASES)
def test_cases(name: str, arguments: dict[str, Any], right: str, wrong: str) -> None:
    assert follows(right, name, arguments)
    assert not follows(wrong, name, arguments)
    assert not follows(" \n", name, arguments)
    assert set(NEEDED.get(name, ())) <= arguments.keys()


def test_every_published_kind_is_known_and_asked_for() -> None:
    assert len(CHECKS) == 25 == len({name for name, *_ in CASES})
    assert {draw(Rng("kinds"))[1] for draw in _KINDS.values()} == CHECKS.keys()
    assert NEEDED.keys() <= CHECKS.keys()


@settings(max_examples=60, deadline=None)
@given(st.text() | st.text('*<>`.\n" [{-', max_size=300), st.sampled_from(CASES))
def test_no_reply_breaks_a_check(text: str, case: tuple[str, dict[str, Any], str, str]) -> None:
    assert follows(text, case[0], case[1]) in (True, False)
    assert text in loosened(text) and len(loosened(text)) == 8


@given(st.lists(st.sampled_from(["It rains", "We go home", "See www.a.org now"]), min_size=1, max_size=9))
def test_sentences_are_counted(parts: list[str]) -> None:
    assert sentences(". ".join(parts) + ".") == len(parts)
    assert sentences("\n".join(parts)) == len(parts)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("The dog is on the way to the sea.", "en"),
        ("Le chien est sur la route et il dort.", "fr"),
        ("El perro no está en la casa.", "es"),
        ("O cão não está em casa e eu vou com ele.", "pt"),
        ("Il cane è nella casa.", "it"),
        ("De hond is niet in het huis.", "nl"),
        ("Это не то, что он думал, но я жду.", "ru"),
        ("Това не е така, но аз се смея.", "bg"),
        ("यह एक अच्छा दिन है और मैं खुश हूँ", "hi"),
        ("हे एक पुस्तक आहे आणि ते छान आहे", "mr"),
        ("이것은 책입니다", "ko"),
        ("これは本です", "ja"),
        ("我喜欢读书", "zh"),
        ("หนังสือเล่มนี้ดี", "th"),
        ("این کتاب را در خانه است", "fa"),
        ("یہ کتاب ہے اور میں نہیں", "ur"),
    ],
)
def test_languages(text: str, code: str) -> None:
    assert [other for other in known_languages() if spoken(text, other)] == [code]


def test_unknown_languages_and_texts_without_letters() -> None:
    assert not spoken("The dog", "xx")
    assert spoken("123 !", "de")
