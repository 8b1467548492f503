"""Lint: everything that is wrong with a corpus, with file and line. It does not stop at the first fault."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from coterie.config.data import SourceConfig
from coterie.config.errors import DataError
from coterie.data.dedup import content_digest
from coterie.data.records import (
    JSONL,
    PARQUET,
    Problem,
    Records,
    is_binary,
    read_file,
    read_hub,
    read_text,
    walk,
)
from coterie.data.sources import Reading, as_source, read_sources, rendered, text_of

LONG_LINE = 100_000  # characters; longer lines are nearly always data, not text


@dataclass(frozen=True)
class LintReport:
    """Counts of what was read, and the problems found. Those that are warnings do not stop training."""

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


TextOrProblem = tuple[int, str | Problem]  # with its line or record; 0 is the whole file


def lint(specs: Sequence[str | SourceConfig], reading: Reading | None = None) -> LintReport:
    """Read every document of every source and list what is wrong. No fault of a source raises."""
    reading = reading or Reading()
    problems: list[Problem] = []
    first: dict[bytes, str] = {}
    files = documents = 0
    for spec in map(as_source, specs):
        before = documents + len(problems)
        for path, texts in _files(spec, reading):
            files += 1
            for line, text in _guarded(path, texts):
                if isinstance(text, Problem):
                    problems.append(text)
                    continue
                documents += 1
                problems.extend(_faults(path, line, text, first))
        if documents + len(problems) == before:
            problems.append(Problem(spec.path, 0, "holds no text"))
    return LintReport(files, documents, tuple(problems))


def _guarded(path: str, texts: Iterator[TextOrProblem]) -> Iterator[TextOrProblem]:
    """The texts. A file that cannot be read becomes a problem and does not end the lint."""
    try:
        yield from texts
    except (OSError, DataError) as error:
        yield 0, Problem(path, 0, str(error).removeprefix(f"{path}: "))


def _files(spec: SourceConfig, reading: Reading) -> Iterator[tuple[str, Iterator[TextOrProblem]]]:
    path = Path(spec.path).expanduser()
    if spec.path.startswith("hf://"):
        yield spec.path, _of_records(read_hub(spec.path), reading)
    elif not path.is_dir() and not path.is_file():
        yield spec.path, ((document.number, document.text) for document in read_sources([spec], reading))
    else:
        for file in walk(path, Counter()) if path.is_dir() else [path]:
            if file.suffix in JSONL | PARQUET:
                yield str(file), _of_records(read_file(file, reading.columns), reading)
            else:
                yield str(file), _of_text_file(file)


def _of_records(records: Records, reading: Reading) -> Iterator[TextOrProblem]:
    """The text of each record, or the problem in its place."""
    for origin, record in records:
        if isinstance(record, Problem):
            yield origin.line, record
            continue
        try:
            found = text_of(record, reading.text_field)
            yield origin.line, found if isinstance(found, str) else rendered(found, reading.tokenizer)[0]
        except DataError as error:
            yield origin.line, Problem(origin.file, origin.line, str(error))


def _of_text_file(path: Path) -> Iterator[TextOrProblem]:
    yield (
        0,
        Problem(str(path), 0, "binary file, will be skipped", warning=True)
        if is_binary(path)
        else read_text(path),
    )


def _faults(path: str, line: int, text: str, first: dict[bytes, str]) -> Iterator[Problem]:
    """What is wrong with one text. `first`: where each content was met first."""
    if not text.strip():
        yield Problem(path, line, "empty text, will be skipped", warning=True)
        return
    where = f"{path}:{line}" if line else path
    before = first.setdefault(content_digest(text), where)
    if before != where:
        yield Problem(path, line, f"repeats {before}", warning=True)
    for number, content in enumerate(text.splitlines(), line or 1):
        if len(content) > LONG_LINE:
            yield Problem(path, line or number, f"a line of {len(content):,} characters", warning=True)
            return
