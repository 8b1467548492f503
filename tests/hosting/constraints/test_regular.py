"""Lark grammars without recursion become one pattern with the same language."""

from __future__ import annotations

import re

import pytest

from coterie.hosting.constraints.regular import MAX_PATTERN, pattern_of

# A grammar of patches, as coding agents send it.
PATCH = """
start: begin hunk+ end
begin: "*** Begin Patch" LF
end: "*** End Patch" LF?

hunk: add_hunk | update_hunk  // two kinds
add_hunk: "*** Add File: " filename LF add_line+
update_hunk: "*** Update File: " filename LF change?

filename: /(.+)/
add_line: "+" /(.*)/ LF -> line
change: (change_context | change_line)+
change_context: ("@@" | "@@ " /(.+)/) LF
change_line: ("+" | "-" | " ") /(.*)/ LF

%import common.LF
"""
GOOD = "*** Begin Patch\n*** Add File: a b\n+x\n+\n*** Update File: y\n@@ def f\n-a\n+b\n*** End Patch"


@pytest.mark.parametrize(
    ("grammar", "matched", "other"),
    [
        (PATCH, GOOD, GOOD.replace("+x", "x")),
        ('start: "a".."c"~2..3 ["x"i] (/[0-9]+/ | WORD)\n%import common.WORD', "abX12", "abcab1"),
        ('start: "a"\n  | "b" "/\\n"', "b/\n", "ab"),
        ('?start.2: "." x? X*\nx: "[x]"\n%import common.INT -> X', ".[x]12", "a[x]"),
        ("start: ESCAPED_STRING\n%import common.ESCAPED_STRING", '"a\\"b"', '"a"b"'),
    ],
)
def test_the_pattern_has_the_language_of_the_grammar(grammar: str, matched: str, other: str) -> None:
    pattern = pattern_of(grammar)
    assert pattern is not None
    assert re.fullmatch(pattern, matched) and not re.fullmatch(pattern, other)


@pytest.mark.parametrize(
    "grammar",
    [
        'start: "(" start ")" | "x"',
        "start: a\na: b\nb: a?",
        'start: X\nX: "a"\n%ignore " "',
        "start: no",
        "begin: /a/",
        "start: /a/ &",
        "%import python.X\nstart: X",
        "start: a a\n"
        + "\n".join(f"{chr(97 + i)}: {chr(98 + i)} {chr(98 + i)}" for i in range(24))
        + '\ny: "x"',
        'start: "' + "x" * MAX_PATTERN + '"',
    ],
)
def test_other_grammars_have_none(grammar: str) -> None:
    assert pattern_of(grammar) is None
