"""Sizes of patterns and grammars by hand."""

from __future__ import annotations

import pytest

from coterie.hosting.constraints.sizes import grammar_size, pattern_size


@pytest.mark.parametrize(
    ("pattern", "size"),
    [
        ("abc", 3),
        ("a{3}b{2,5}", 8),
        ("(ab){10}", 20),
        ("((a{3}b){4}c){2,}", 34),
        (r"[a{9}]{4}\x{100}\p{L}{2}", 7),
        (r"\(\{9\}", 4),
        ("(a{1000}){1000}", 10**6),
        ("a{1000}{1000}", 10**6),
        ("(a(b{5}", 6),
    ],
)
def test_patterns(pattern: str, size: int) -> None:
    assert pattern_size(pattern) == size


@pytest.mark.parametrize(
    ("grammar", "size"),
    [
        ('start: "abc" "d"', 4),
        ('start: a{3}\na: "x" b{2}\n b: "y"', 3 + 3 * 2),
        ("start: /[a-z]{5}/ | NUM{4}\nNUM: /[0-9]/{3}", 5 + 1 + 12),
        ('start: "x{9}" // a{9}\n', 4),
        ('start: (a "b" [c]){10}\na: "a:"\nc: a\n', 50),
        ('start: "a" start | ""', 3 + 1),
        ("start: a\na: b{1000}\nb: c{1000}\nc: d{1000}\nd: /x{1000}/", 10**12),
        ('start: a\na[capture="x:y"]: "b"{7}\n  "c"{7}', 14),
    ],
)
def test_grammars(grammar: str, size: int) -> None:
    assert grammar_size(grammar) == size
