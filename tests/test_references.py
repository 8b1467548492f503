"""A reader finds every file that documents, docstrings and comments name: nothing cites what is not here."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NAME = re.compile(r"(?<![\w/*{}<>-])((?:[\w.-]+/)*[\w-]+\.(?:md|py))\b")
# Names of files that are written while something runs, or that belong to others.
ELSEWHERE = {
    "ABOUT.md": "a publisher's prose about a model",
    "indexed_dataset.py": "Megatron-LM's reader, whose file format data/shards.py describes",
    "my_task.py": "the file of a user's own task",
    "os.py": "the standard library's source, which the primer quotes",
    "program.py": "the program that the sandbox writes and runs",
    "source.py": "the program that the sandbox writes and runs",
}


def documents() -> list[Path]:
    return [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]


@cache
def prose(path: Path) -> list[str]:
    """Docstrings and comments of a Python file."""
    return [*_prose(path.read_text(encoding="utf-8"))]


def _prose(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(node) or ""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.string


def unknown(text: str, known: set[str]) -> list[str]:
    """Names of Python and Markdown files in `text` that no path of the repository ends with."""
    return [name for name in NAME.findall(text) if not any(path.endswith("/" + name) for path in known)]


def known_paths() -> set[str]:
    skipped = {".venv", ".git", "build", "dist"}
    return {
        f"/{path.relative_to(ROOT).as_posix()}"
        for path in ROOT.rglob("*")
        if path.suffix in (".md", ".py") and not skipped & set(path.relative_to(ROOT).parts)
    }


def test_named_files_exist():
    known = known_paths()
    texts = {path: [path.read_text(encoding="utf-8")] for path in documents()}
    texts |= {path: prose(path) for path in (ROOT / "src").rglob("*.py")}
    wrong = [
        f"{path.relative_to(ROOT)}: {name}"
        for path, parts in texts.items()
        for part in parts
        for name in unknown(part, known)
        if name not in ELSEWHERE
    ]
    assert not wrong, "\n".join(wrong)


def test_no_appendix_or_section_of_an_unnamed_document():
    """`section 2.2` needs a paper or a page next to it on the line or the one before."""
    wrong = []
    for path in (ROOT / "src").rglob("*.py"):
        for part in prose(path):
            for found in re.finditer(r"\b(?:[Aa]ppendix [A-Z]\b|[Ss]ections? \d)", part):
                around = part[max(0, found.start() - 160) : found.end() + 160]
                if not re.search(r"arXiv|\.md|RFC|\d{4}", around):
                    wrong.append(f"{path.relative_to(ROOT)}: {found[0]}")
    assert not wrong, "\n".join(wrong)


def test_the_finder_itself():
    known = {"/docs/tune.md", "/src/coterie/nn/moe.py"}
    assert unknown("see tune.md, docs/tune.md, nn/moe.py and `moe.py`", known) == []
    assert unknown("see spec.md and train/moe.py", known) == ["spec.md", "train/moe.py"]
