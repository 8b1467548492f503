"""Functions that do nearly the same thing in slightly different words.

`tests/test_budget.py` counts lines that repeat exactly. A twin whose names were changed escapes that count.
Here two functions are compared by their 4-grams of tokens. Their share is the number of 4-grams that both
hold, over those of the shorter one. `python -m tests.near_twins` lists the pairs.
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

GRAM, LINES = 4, 8
LIMIT = 0.35
_SKIPPED = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}


Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Twins:
    """Two functions, as `path::name`, and the share of the shorter one's 4-grams that the other holds too."""

    share: float
    first: str
    second: str


def functions(tree: ast.AST, prefix: str) -> Iterator[tuple[str, Function]]:
    """Every function with its dotted name, a class or an outer function first."""
    for node in ast.iter_child_nodes(tree):
        inner = f"{prefix}{node.name}." if isinstance(node, Function | ast.ClassDef) else prefix
        if isinstance(node, Function):
            yield inner.removesuffix("."), node
        yield from functions(node, inner)


def body_tokens(source: list[str], node: Function) -> list[str]:
    """Tokens of a function's body without its signature, docstring and comments."""
    body = node.body[1:] if ast.get_docstring(node) else node.body
    if not body:
        return []
    text = "\n".join(source[body[0].lineno - 1 : node.end_lineno])
    found = []
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type not in _SKIPPED:
                found.append(token.string)
    except (tokenize.TokenError, IndentationError):
        pass  # a body cut from its indentation may end in a dedent error
    return found


def near_twins(paths: list[Path], root: Path, limit: float = LIMIT) -> list[Twins]:
    """Pairs of functions of at least `LINES` body lines that share more than `limit`, the closest first."""
    grams: dict[str, Counter[tuple[str, ...]]] = {}
    for path in paths:
        source = path.read_text(encoding="utf-8").splitlines()
        for name, node in functions(ast.parse("\n".join(source)), f"{path.relative_to(root)}::"):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            if body and (node.end_lineno or 0) - body[0].lineno + 1 >= LINES:
                tokens = body_tokens(source, node)
                grams[name] = Counter(tuple(tokens[i : i + GRAM]) for i in range(len(tokens) - GRAM + 1))
    holders: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for name, counted in grams.items():
        for gram in counted:
            holders[gram].append(name)
    shared: Counter[tuple[str, str]] = Counter()
    for gram, names in holders.items():
        for a, b in combinations(names, 2):
            if not b.startswith(f"{a}."):  # a function inside another one
                shared[a, b] += min(grams[a][gram], grams[b][gram])
    found = []
    for (a, b), number in shared.items():
        share = number / max(1, min(grams[a].total(), grams[b].total()))
        if share > limit:
            found.append(Twins(share, a, b))
    return sorted(found, key=lambda twins: -twins.share)


if __name__ == "__main__":
    here = Path(__file__).resolve().parents[1]
    for twins in near_twins(sorted((here / "src").rglob("*.py")), here):
        sys.stdout.write(f"{twins.share:.0%}  {twins.first}  {twins.second}\n")
