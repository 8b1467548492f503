"""How large a pattern or a grammar is once its repeats are written out, found without compiling it.

llguidance writes repeats out: nested ones multiply, and a few characters can take it minutes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

# A code point or property, another escape, a class, a repeat, a bracket, any other character.
_IN_PATTERN = re.compile(
    r"\\[xpPuU]\{[^}]*\}|\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\{\s*\d*\s*,?\s*\d*\s*\}|.", re.S
)
# A comment, a text, a pattern, a name, a repeat, a line's end, any other character.
_IN_GRAMMAR = re.compile(
    r"//[^\n]*|\"(?:\\.|[^\"\\])*\"|/(?:\\.|[^/\\])+/|[A-Za-z_][\w-]*|\{\s*\d*\s*,?\s*\d*\s*\}|\n|\S", re.S
)


def pattern_size(pattern: str) -> int:
    """The number of characters and classes of a regular expression."""
    return _sum(_IN_PATTERN.findall(pattern), "(", ")", lambda token: 1)


def grammar_size(grammar: str) -> int:
    """The number of characters and classes that the rule `start` of a Lark grammar leads to.

    A rule that leads back to itself counts once. Rules of one name in nested grammars count together.
    Errors: `RecursionError` for a chain of very many rules.
    """
    rules: dict[str, list[str]] = {}
    body: list[str] = []
    line: list[str] = []
    for token in [*_IN_GRAMMAR.findall(grammar), "\n"]:
        if token == "\n":
            body += line
            line = []
        elif token == ":" and not any(one == ":" for one in line):
            name = next((one for one in line if one[0].isalpha() or one[0] == "_"), "")
            body, line = rules.setdefault(name, []), []
        elif not token.startswith("//"):
            line.append(token)
    found: dict[str, int] = {}

    def size(token: str) -> int:
        if token[0] == "/" and len(token) > 1:
            return pattern_size(token[1:-1])
        if token not in rules:
            return max(1, len(token) - 2) if token[0] == '"' else 1
        if token not in found:
            found[token] = 1
            found[token] = _sum(rules[token], "([", ")]", size)
        return found[token]

    return size("start")


def _sum(tokens: Iterable[str], opening: str, closing: str, size: Callable[[str], int]) -> int:
    """The sum of the tokens' sizes; a repeat multiplies the token or the bracket before it."""
    levels: list[list[int]] = [[]]
    for token in tokens:
        if token in opening:
            levels.append([])
        elif token in closing and len(levels) > 1:
            inner = sum(levels.pop())
            levels[-1].append(max(1, inner))
        elif token[0] == "{" and len(token) > 1:
            counts = [int(count[:9]) for count in re.findall(r"\d+", token)]
            if levels[-1]:
                levels[-1][-1] *= max(1, *counts, 1)
        else:
            levels[-1].append(size(token))
    return sum(map(sum, levels))
