"""What the text of a reply must be, as Lark rules that define `value`: JSON, a choice, a pattern, a grammar.

llguidance follows references between rules by recursion, so a long chain of rules would overflow the stack of
the process; the size of a grammar is bounded before it is compiled.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from coterie.hosting.constraints.schemas import bad
from coterie.hosting.constraints.sizes import grammar_size, pattern_size

MAX_GRAMMAR = 64 * 1024  # characters of a grammar
MAX_PATTERN = 8 * 1024  # characters of a pattern
# Rules and brackets of a grammar together; llguidance 1.9 overflows a stack of 8 MB at about 3000.
MAX_PARTS = 400
MAX_SIZE = 20_000  # characters of a pattern or grammar whose repeats are written out


def choice_rules(choices: Sequence[str], pointer: str) -> str:
    """Rules for exactly one of these texts.

    Errors: `ApiError` 400 `invalid_schema` when they are too long.
    """
    if sum(map(len, choices)) > MAX_GRAMMAR:
        raise bad(pointer, f"the choices are too long (at most {MAX_GRAMMAR} characters in all)")
    written = (json.dumps(choice, ensure_ascii=False) for choice in choices)
    return "value: " + " | ".join(written).replace("\x7f", r"\u007f")  # Lark reads every other character


def regex_rules(pattern: str, pointer: str) -> str:
    """Rules for a text that the whole pattern matches.

    Errors: `ApiError` 400 `invalid_schema` for a pattern that is too large or ends in an open escape.
    """
    if len(pattern) > MAX_PATTERN or pattern_size(pattern) > MAX_SIZE:
        limits = f"at most {MAX_PATTERN} characters, and {MAX_SIZE} with its repeats written out"
        raise bad(pointer, f"is too large ({limits})")
    # Between slashes, as Lark writes patterns.
    written = re.sub(r"\\.|/", lambda found: r"\/" if found[0] == "/" else found[0], pattern, flags=re.S)
    if re.sub(r"\\.", "", pattern, flags=re.S).endswith("\\"):
        raise bad(pointer, "ends in a backslash that escapes nothing")
    return f"value: /{written}/"


def grammar_rules(grammar: str, pointer: str) -> str:
    """Rules for a text of this grammar: Lark with a rule `start`, or GBNF with a rule `root`.

    Errors: `ApiError` 400 `invalid_schema` for one that is too large or cannot be read.
    """
    if "::=" in grammar:
        grammar = _from_gbnf(grammar[: MAX_GRAMMAR + 1], pointer)
    # A schema inside the grammar leads from definition to definition too, and each has a brace.
    parts = sum(":" in line for line in grammar.splitlines()) + sum(map(grammar.count, "([{"))
    if len(grammar) > MAX_GRAMMAR or parts > MAX_PARTS:
        limits = f"at most {MAX_GRAMMAR} characters, {MAX_PARTS} rules and brackets"
        raise bad(pointer, f"the grammar is too large ({limits})")
    try:
        size = grammar_size(grammar)
    except RecursionError:
        raise bad(pointer, "its rules lead too deeply into each other") from None
    if size > MAX_SIZE:
        limits = f"at most {MAX_SIZE} characters with its repeats written out"
        raise bad(pointer, f"the grammar is too large ({limits})")
    return f"value: %lark {{\n{grammar}\n}}"


def _from_gbnf(grammar: str, pointer: str) -> str:
    """The same grammar in Lark."""
    from llguidance.gbnf_to_lark import gbnf_to_lark

    try:
        return str(gbnf_to_lark(grammar))
    except Exception as error:  # the converter raises plain ones too
        deep = isinstance(error, RecursionError)
        why = "it is nested too deeply" if deep else " ".join(str(error).split())[:200]
    raise bad(pointer, f"the grammar cannot be read ({why})")
