"""Choices, patterns and grammars of a reply's text: what they allow, and what is refused before it runs."""

from __future__ import annotations

import json

import pytest

from coterie.hosting.constraints.contents import MAX_PARTS, choice_rules, grammar_rules, regex_rules
from coterie.hosting.constraints.grammar import Grammars
from coterie.hosting.errors import ApiError
from tests.serve.support import service, tokenizer

GBNF = 'root ::= "yes" | digits ws "x"\ndigits ::= [0-9]+ # some\nws ::= [ \\t]*\n'
LARK = 'start: pair ("," pair)*\npair: NAME "{" NAME "}"\nNAME: /[a-z]+/\n'


CHAIN = json.dumps(
    {"$defs": {str(i): {"items": {"$ref": f"#/$defs/{i + 1}"}} for i in range(1500)}, "$ref": "#/$defs/0"},
    separators=(",", ":"),
)


@pytest.fixture(scope="module")
def grammars() -> Grammars:
    return service().grammars


def fits(grammars: Grammars, rules: str, text: str) -> bool:
    """Whether a reply may be this text and end there."""
    kept = grammars.of_rules(rules, "/here", None)
    for token in tokenizer().encode(text):
        mask_V = kept.allowed()
        if mask_V is None or not bool(mask_V[token]):
            return False
        kept.accept(token)
    mask_V = kept.allowed()
    return mask_V is not None and bool(mask_V[tokenizer().eos_id])


@pytest.mark.parametrize(
    ("rules", "right", "wrong"),
    [
        (
            choice_rules(["red", 'a "b"\n', "<|im_end|>"], ""),
            ["red", 'a "b"\n', "<|im_end|>"],
            ["re", "redd"],
        ),
        (choice_rules(["", "x"], ""), ["", "x"], ["xx"]),
        (choice_rules(["\x00\x7f\u2028", "🙂/\\"], ""), ["\x00\x7f\u2028", "🙂/\\"], ["🙂"]),
        (regex_rules("[a-c]{2,3}|no", ""), ["ab", "abc", "no"], ["a", "abcd", "abno"]),
        (regex_rules(r"^a/b\/c\\$", ""), ["a/b/c\\"], ["a/b", "a/b\\/c\\"]),
        (regex_rules("(?i)yes", ""), ["YES", "yes"], ["no"]),
        (grammar_rules(GBNF, ""), ["yes", "12x", "7 \tx"], ["x", "yes1"]),
        (grammar_rules(LARK, ""), ["a{b}", "ab{c},d{e}"], ["a{b},", "a{}"]),
    ],
)
def test_what_fits(grammars: Grammars, rules: str, right: list[str], wrong: list[str]) -> None:
    assert [fits(grammars, rules, text) for text in right] == [True] * len(right)
    assert [fits(grammars, rules, text) for text in wrong] == [False] * len(wrong)


@pytest.mark.parametrize(
    ("make", "given", "words"),
    [
        (choice_rules, ["a" * 40_000, "b" * 40_000], "too long"),
        (regex_rules, "(?=a)b", "regex parse error"),
        (regex_rules, r"\bfoo", "lookarounds not supported"),
        (regex_rules, "(a{1000}){1000}", "too large"),  # would take seconds
        (grammar_rules, "start: a\na: b{900}\nb: c{900}\nc: d{900}\nd: /x{900}/", "too large"),  # a minute
        (regex_rules, "ab\\", "backslash"),
        (grammar_rules, 'root = "a"', "cannot be enforced"),
        (grammar_rules, "start: other", "other"),
        (grammar_rules, 'start: "a"\n}\nstart: "b"', "cannot be enforced"),
        (grammar_rules, 'first ::= "a"', "cannot be"),
        (grammar_rules, "root ::= [a", "cannot be read"),
        (grammar_rules, "root ::= " + "(" * 3000 + '"a"' + ")" * 3000, "nested too deeply"),
        # llguidance itself would overflow the stack, which ends the process.
        (grammar_rules, "start: r0\n" + "\n".join(f"r{i}: r{i + 1}" for i in range(5000)), "too large"),
        (grammar_rules, "start: " + "(" * (MAX_PARTS + 1), "too large"),
        (grammar_rules, f"start: %json {CHAIN}", "too large"),
        (grammar_rules, 'start: "' + "a" * 70_000 + '"', "too large"),
    ],
)
def test_what_is_refused(grammars: Grammars, make, given: str, words: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ApiError, match=words) as caught:
        grammars.of_rules(make(given, "/here"), "/here", None)
    assert caught.value.param == "/here" and caught.value.status == 400 and "\n" not in str(caught.value)
