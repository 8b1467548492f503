"""The running interpreter's own standard library, read in place: sources (`code`) and their prose (`docs`).

A module feeds one of the two slices, never both, so that no held-out docstring is trained on as source. What
is found depends on the interpreter (it is the reader's own copy, under the Python licence); its order depends
on the seed.
"""

import ast
import hashlib
import os
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from coterie.config.errors import DataError
from coterie.primer.base import PrimerDocument

PART_BYTES = 6000  # a document ends at the first good place after this many bytes
HARD_BYTES = 24000  # and anywhere between two lines after this many: a table without definitions

_SKIPPED = {
    "test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__", "turtledemo",
    "lib-dynload", "encodings", "pydoc_data", "ensurepip",
}  # fmt: skip
_TOPICS = (
    "pydoc_data/topics"  # the language reference as Python's help() shows it: prose inside one dictionary
)
_TOP = re.compile(r"(?:def|class|async def|@)\b|@|#")
_INNER = re.compile(r"    (?:def|class|async def|@)\b|    @")
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def root() -> Path:
    """The directory of the standard library; `DataError` if this interpreter keeps no readable sources."""
    path = Path(sysconfig.get_paths()["stdlib"])
    if not (path / "os.py").is_file():
        raise DataError(
            f"no standard library sources in {path}: use a Python that ships .py files, or your own data"
        )
    return path


def modules(slice: str, seed: int) -> list[str]:
    """The module paths (`json/decoder`) of `code` or `docs`, about half of all each, ordered by `seed`."""
    base = root()
    found = []
    for folder, folders, files in os.walk(base):
        folders[:] = [name for name in folders if name not in _SKIPPED and not name.startswith("config-")]
        inside = Path(folder).relative_to(base)
        found += [
            (inside / name[:-3]).as_posix()
            for name in files
            if name.endswith(".py") and name[0:11] != "_sysconfigd"
        ]
    chosen = [name for name in found if (_hash(name)[0] < 128) == (slice == "docs")]
    if slice == "docs" and (base / f"{_TOPICS}.py").is_file():
        chosen.append(_TOPICS)
    return sorted(chosen, key=lambda name: (_hash(f"{seed} {name}"), name))


def documents(slice: str, seed: int) -> Iterator[PrimerDocument]:
    """Every document of `code` or `docs`, module by module; a long module is several documents (`name#2`)."""
    base = root()
    for name in modules(slice, seed):
        source = _read(base / f"{name}.py")
        if source is None:
            continue
        parts = split(source) if slice == "code" else _prose_parts(name, source)
        for number, part in enumerate(parts, start=1):
            yield PrimerDocument(part, slice, f"{slice}/{name}#{number}")


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _read(path: Path) -> str | None:
    """The source, or None where it is not UTF-8 (a few modules are old Latin-1) or holds nothing."""
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        return None
    text = text.replace("\r\n", "\n").strip("\n")
    return f"{text}\n" if text else None


def split(source: str) -> list[str]:
    """`source` cut between definitions into documents of about `PART_BYTES`; joined they are `source`."""
    parts: list[str] = []
    current: list[str] = []
    size = 0
    blank = False
    for line in source.splitlines(keepends=True):
        good = blank and (_TOP.match(line) or (size >= 2 * PART_BYTES and _INNER.match(line)))
        if (size >= PART_BYTES and good) or size >= HARD_BYTES:
            parts.append("".join(current))
            current, size = [], 0
        current.append(line)
        size += len(line)
        blank = not line.strip()
    return [*parts, "".join(current)]


def prose(source: str) -> str:
    """The docstrings of `source` in order, each under its signature, and the comments that open the file."""
    try:
        tree = ast.parse(source)
    except SyntaxError:  # a distribution may keep templates under .py names: they have no docstrings to read
        return ""
    pieces = [_leading_comment(source)]
    if head := ast.get_docstring(tree):
        pieces.append(head)
    pieces += _walk(tree, "")
    return "\n\n".join(piece.strip("\n") for piece in pieces if piece.strip())


def _walk(node: ast.AST, prefix: str) -> Iterator[str]:
    for child in getattr(node, "body", ()):
        if isinstance(child, _DEFINITIONS):
            title = f"{prefix}{child.name}"
            if text := ast.get_docstring(child):
                yield f"{title}{_signature(child)}\n{text}"
            if isinstance(child, ast.ClassDef):
                yield from _walk(child, f"{title}.")


def _signature(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> str:
    if isinstance(node, ast.ClassDef):
        return ""
    names = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args)]
    return f"({', '.join(names)})"


def _leading_comment(source: str) -> str:
    """The comment lines before the first statement, without `#`, shebang and encoding line."""
    lines = []
    for line in source.splitlines():
        if line.strip() and not line.startswith("#"):
            break
        if not line.startswith("#!") and "-*-" not in line and "coding:" not in line:
            lines.append(line.lstrip("#").removeprefix(" ").rstrip())
    return "\n".join(lines).strip("\n")


def _prose_parts(name: str, source: str) -> list[str]:
    if name != _TOPICS:
        text = prose(source)
        return _paragraph_parts(text) if len(text) >= 200 else []
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Dict):
            topics = ast.literal_eval(statement.value)
            return [part for topic in sorted(topics) for part in _paragraph_parts(topics[topic])]
    return []


def _paragraph_parts(text: str) -> list[str]:
    """`text` cut at empty lines into documents of roughly `PART_BYTES`."""
    parts: list[list[str]] = [[]]
    size = 0
    for paragraph in text.strip("\n").split("\n\n"):
        if size >= PART_BYTES:
            parts.append([])
            size = 0
        parts[-1].append(paragraph)
        size += len(paragraph)
    joined = ("\n\n".join(part).strip("\n") for part in parts)
    return [f"{part}\n" for part in joined if part]
