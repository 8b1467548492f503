"""Lint: everything that is wrong with a corpus, with file and line, without stopping at the first fault."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from coterie.config.data import SourceConfig
from coterie.config.errors import DataError
from coterie.data.dedup import content_digest
from coterie.data.sources import JSONL, PARQUET, as_source, is_binary, parse_record, read_sources, text_files

LONG_LINE = 100_000  # characters; such lines are nearly always data, not text


@dataclass(frozen=True)
class Problem:
    """One fault. `line` counts from 1 (records in Parquet, the Hub and the primer); 0 is the file as a
    whole.
    """

    path: str
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.message}" if self.line else f"{self.path}: {self.message}"


@dataclass(frozen=True)
class LintReport:
    """What was looked at and what is wrong."""

    files: int
    documents: int
    problems: tuple[Problem, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "files": self.files,
            "documents": self.documents,
            "problems": [asdict(p) for p in self.problems],
        }

    def to_text(self) -> str:
        """One line per problem and one of counts."""
        end = f"{self.files:,} files, {self.documents:,} documents, {len(self.problems):,} problems"
        return "\n".join([*map(str, self.problems), end])


Item = tuple[int, str | Problem]


def lint(specs: Sequence[str | SourceConfig], text_field: str = "text") -> LintReport:
    """Read every document of every source and list what is wrong; nothing raises but a bug."""
    problems: list[Problem] = []
    first: dict[bytes, str] = {}
    files = documents = 0
    for spec in map(as_source, specs):
        before = documents + len(problems)
        for path, items in _files(spec, text_field):
            files += 1
            for line, text in _guarded(path, items):
                if isinstance(text, Problem):
                    problems.append(text)
                    continue
                documents += 1
                problems.extend(_look(path, line, text, first))
        if documents + len(problems) == before:
            problems.append(Problem(spec.path, 0, "holds no text"))
    return LintReport(files, documents, tuple(problems))


def _guarded(path: str, items: Iterator[Item]) -> Iterator[Item]:
    """The items; a file that cannot be read is a problem, not the end of the lint."""
    try:
        yield from items
    except (OSError, DataError) as error:
        yield 0, Problem(path, 0, str(error).removeprefix(f"{path}: "))


def _files(spec: SourceConfig, text_field: str) -> Iterator[tuple[str, Iterator[Item]]]:
    path = Path(spec.path).expanduser()
    if not path.is_dir() and not path.is_file():
        yield spec.path, _stream(spec, text_field)
        return
    for file in text_files(path, Counter()) if path.is_dir() else [path]:
        if file.suffix in PARQUET:
            yield str(file), _stream(SourceConfig(path=str(file)), text_field)
        elif file.suffix in JSONL:
            yield str(file), _lines(file, text_field)
        else:
            yield str(file), _text(file)


def _stream(spec: SourceConfig, text_field: str) -> Iterator[Item]:
    """Sources that are read record by record; they end at their first fault."""
    for document in read_sources([spec], text_field):
        yield document.number, document.text


def _lines(path: Path, text_field: str) -> Iterator[Item]:
    with path.open("rb") as stream:
        for number, raw in enumerate(stream, 1):
            if not raw.strip():
                continue
            try:
                yield number, parse_record(json.loads(raw.decode("utf-8-sig")), text_field)[0]
            except UnicodeDecodeError as error:
                yield number, Problem(str(path), number, f"not UTF-8 at byte {error.start} of the line")
            except (ValueError, RecursionError) as error:
                yield number, Problem(str(path), number, f"not valid JSON ({error})")
            except DataError as error:
                yield number, Problem(str(path), number, str(error))


def _text(path: Path) -> Iterator[Item]:
    if is_binary(path):
        yield 0, Problem(str(path), 0, "binary file, will be skipped")
        return
    raw = path.read_bytes()
    try:
        yield 0, raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        yield 0, Problem(str(path), raw.count(b"\n", 0, error.start) + 1, f"not UTF-8 at byte {error.start}")


def _look(path: str, line: int, text: str, first: dict[bytes, str]) -> Iterator[Problem]:
    if not text.strip():
        yield Problem(path, line, "empty text")
        return
    where = f"{path}:{line}" if line else path
    before = first.setdefault(content_digest(text), where)
    if before != where:
        yield Problem(path, line, f"repeats {before}")
    for number, content in enumerate(text.splitlines(), line or 1):
        if len(content) > LONG_LINE:
            yield Problem(path, line or number, f"a line of {len(content):,} characters")
            return
