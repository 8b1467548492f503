"""Tuning examples from files of every common format, with file and line.

A file is of one kind, which its first record shows. A record that cannot be read becomes a `Problem` with its
line; no record is dropped silently.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from coterie.config.errors import DataError
from coterie.data.fields import ignorable
from coterie.data.formats import Example, LabelledExample, PreferenceExample
from coterie.data.readers import FORMATS, read_row
from coterie.data.records import Origin, Problem, read_records
from coterie.data.texts import is_plain_text, read_texts


@dataclass
class ExampleSet:
    """The examples and problems of some sources. `format`: of the first file.

    `unused`: the fields that no reader used, with the first row that has them and the number of such rows.
    """

    format: str = ""
    examples: list[Example] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    unused: dict[str, tuple[Origin, int]] = field(default_factory=dict)

    def warnings(self) -> list[Problem]:
        """The unused fields that may say something, each once, with the first row that has it."""
        return [
            Problem(
                first.file,
                first.line,
                f"field '{name}' is not used (in {count:,} rows); rename it if it should be, or remove it",
                warning=True,
            )
            for name, (first, count) in self.unused.items()
            if not ignorable(name)
        ]

    def notes(self) -> list[str]:
        """One line that lists the other unused fields, which describe their rows."""
        names = [f"{name} ({count:,})" for name, (_, count) in self.unused.items() if ignorable(name)]
        return [f"note: not used: {', '.join(names)} (rows)"] if names else []

    def add_unused(self, names: Iterable[str], first: Origin, count: int = 1) -> None:
        """Count rows with fields that were not used."""
        for name in names:
            before, rows = self.unused.get(name, (first, 0))
            self.unused[name] = (before, rows + count)


def read_examples(source: str, limit: int | None = None) -> ExampleSet:
    """All examples of one source.

    `source`: a JSONL, JSON or Parquet file, a folder of them, `hf://owner/name`, `-` (standard input),
    `starter` or `tools`; or plain text (`data.texts`), of which each document is an example. `name:0.3`
    takes that share of a source and `name#500` that many examples, evenly spread. `limit`: stop after that
    many examples.
    Errors: `DataError` for a source that cannot be read, holds nothing, or mixes kinds.
    """
    path, share, count = portion(source)
    found = _read_texts(path, limit) if is_plain_text(path) else _read_rows(path, limit)
    if not found.examples and not found.problems:
        raise DataError(f"{path}: holds no example; give one of: {FORMATS}")
    if share is not None:
        count = max(1, round(share * len(found.examples)))
    if count is not None and found.examples:
        total = len(found.examples)
        if count > total:
            raise DataError(f"{source}: asks for {count} examples and there are {total}; ask for fewer")
        found.examples = [found.examples[index * total // count] for index in range(count)]
    return found


def _read_texts(path: str, limit: int | None) -> ExampleSet:
    return ExampleSet("text", list(read_texts(path)[:limit]))


def _read_rows(path: str, limit: int | None) -> ExampleSet:
    found = ExampleSet()
    for origin, record in read_records(path):
        if isinstance(record, Problem):
            found.problems.append(record)
            continue
        if limit is not None and len(found.examples) >= limit:
            break
        try:
            kind, example, unused = read_row(record, origin)
            if found.format and kind != found.format:
                raise DataError(
                    f"is of the kind '{kind}' in a source that began with '{found.format}'; separate them"
                )
            found.format = found.format or kind
            found.examples.append(example)
            found.add_unused(unused, origin)
        except DataError as error:
            found.problems.append(Problem(origin.file, origin.line, str(error)))
    return found


def read_all(sources: Sequence[str]) -> ExampleSet:
    """The examples of several sources, one source after another.

    Errors: `DataError` for a source that cannot be read, or kinds that cannot be tuned on together.
    """
    merged = ExampleSet()
    for source in sources:
        found = read_examples(source)
        merged.format = merged.format or found.format
        merged.examples += found.examples
        merged.problems += found.problems
        for name, (first, rows) in found.unused.items():
            merged.add_unused([name], first, rows)
    kinds = {_purpose(example) for example in merged.examples}
    if len(kinds) > 1:
        raise DataError(
            f"{', '.join(sources)}: hold {' and '.join(sorted(kinds))}; tune on one of them at a time"
        )
    return merged


def _purpose(example: Example) -> str:
    if isinstance(example, PreferenceExample):
        return "preferences"
    return "labelled examples" if isinstance(example, LabelledExample) else "examples to imitate"


def portion(source: str) -> tuple[str, float | None, int | None]:
    """The parts of `path:0.3` (share) and `path#500` (count).

    Errors: `DataError` for a share outside (0, 1].
    """
    path, mark, number = source.rpartition("#")
    if mark and number.isdigit() and int(number) > 0:
        return path, None, int(number)
    path, mark, number = source.rpartition(":")
    if mark and not Path(source).exists():
        try:
            share = float(number)
        except ValueError:
            return source, None, None
        if not 0 < share <= 1:
            raise DataError(f"{source}: the share {number} is not above 0 and at most 1")
        return path, share, None
    return source, None, None
