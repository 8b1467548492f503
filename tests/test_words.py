"""Phrases that make a reader start a sentence again; CONTRIBUTING.md says what to write instead."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PHRASES = {
    "a 'who' without a person": r"\bwho (waits|comes|asks|dawdles)\b",
    "'told' for reported": r"\b(is|are|was|were|be|been) told\b(?! apart)",
    "'held to' for checked against": r"\b(is|are) held to\b",
    "'so many' for a number": r"\bso many\b",
    "'of its own' for separate": r"\bof (its|their) own\b",
    "'beside' for next to or while": r"\bbeside\b",
    "'no X' for not an X": r"\b(is|are) no (JSON|object|list|response|file|directory|number|text|mapping)\b",
}
# "path: phrase" -> why it may stay.
EXCEPTIONS = {
    "src/coterie/primer/talk.py: of its own": "a sentence of the embedded corpus",
}


def prose() -> list[Path]:
    """Sources and pages; CONTRIBUTING.md quotes the phrases, and the other lists of changes are history."""
    return [*(ROOT / "src").rglob("*.py"), *(ROOT / "docs").rglob("*.md"), ROOT / "README.md"]


def joined(text: str) -> str:
    """The text with its lines joined: comments, wrapped docstrings, and strings in several pieces."""
    text = re.sub(r'"\s*\n\s*[rf]*"', "", text)
    return re.sub(r"\s*\n\s*(#\s)?", " ", text)


def phrases(text: str) -> list[str]:
    """What is found, in the words of the text."""
    return [found.group() for pattern in PHRASES.values() for found in re.finditer(pattern, joined(text))]


def test_prose_has_none_of_these_phrases():
    found = {
        f"{path.relative_to(ROOT)}: {phrase}"
        for path in prose()
        for phrase in phrases(path.read_text(encoding="utf-8"))
    }
    assert not found - EXCEPTIONS.keys(), "\n".join(sorted(found - EXCEPTIONS.keys()))
    assert not EXCEPTIONS.keys() - found, "delete exceptions that nothing needs"
    assert all(len(reason) > 10 for reason in EXCEPTIONS.values())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('"""A request\n    who waits is\n    told."""', ["who waits", "is told"]),
        ("# in a process of\n# its own", ["of its own"]),
        ('f"the reply is "\n    f"no object"', ["is no object"]),
        ("replies cannot be told apart; is nobody listening?", []),
    ],
)
def test_the_reader_joins_lines(text: str, expected: list[str]):
    assert phrases(text) == expected


def spilled(tree: ast.AST) -> list[str]:
    """First lines of docstrings whose first sentence goes on in the second line."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = []
    for node in ast.walk(tree):
        lines = (ast.get_docstring(node) or "").splitlines() if isinstance(node, documented) else []
        if len(lines) > 1 and lines[1].strip() and not lines[0].rstrip().endswith((".", ":", "?")):
            found.append(lines[0])
    return found


def test_summaries_of_docstrings_fit_in_one_line():
    found = [
        f"{path.relative_to(ROOT)}: {line}"
        for path in sorted((ROOT / "src").rglob("*.py"))
        for line in spilled(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert not found, "\n".join(found)


def test_the_finder_of_spilled_summaries():
    assert spilled(ast.parse('"""Read a\nfile."""')) == ["Read a"]
    assert spilled(ast.parse('"""Read a file.\n\nMore that\ngoes on."""')) == []
