"""Records as they stand in JSON lines, JSON, Parquet, directories, the Hub or standard input, with file and
line.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coterie.config.errors import CoterieError, DataError
from coterie.data.lint import Problem
from coterie.data.primer.lessons import lessons
from coterie.data.sources import JSONL, PARQUET

_STARTER = Path(__file__).parent / "conversations" / "starter.jsonl"
EMBEDDED = (
    "starter",
    "tools",
)  # what comes with coterie: short conversations, and lessons in the use of tools


@dataclass(frozen=True)
class Origin:
    """Where an example stands: file, and line or record from 1."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


Records = Iterator[tuple[Origin, Mapping[str, Any] | Problem]]


def read_records(source: str) -> Records:
    """Every record of a source, or the problem that stands in its place. Errors: `DataError` for the source
    itself.
    """
    if source == "-":
        yield from _lines("standard input", sys.stdin.buffer)
        return
    if source.startswith("hf://"):
        yield from _hub(source)
        return
    if source in EMBEDDED and Path(source).exists():
        raise DataError(
            f"{source}: comes with coterie and lies here too; write ./{source} for yours, or rename it"
        )
    if source == "tools":
        yield from ((Origin(source, number), record) for number, record in enumerate(lessons(), 1))
        return
    path = _STARTER if source == "starter" else Path(source).expanduser()
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix in JSONL | PARQUET | {".json"})
        if not files:
            raise DataError(f"{source}: has no .jsonl, .json or .parquet file")
        for file in files:
            yield from _file(file)
        return
    if not path.is_file():
        raise DataError(
            f"{source}: no such file or directory; the conversations that come with coterie are 'starter' and 'tools'"
        )
    yield from _file(path)


def _file(path: Path) -> Records:
    try:
        if path.suffix in PARQUET:
            yield from _parquet(path)
        elif path.suffix == ".json":
            yield from _json(path)
        else:
            with path.open("rb") as stream:
                yield from _lines(str(path), stream)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None


def _lines(name: str, stream: Iterable[bytes]) -> Records:
    for number, raw in enumerate(stream, 1):
        if raw.strip():
            yield Origin(name, number), _parsed(name, number, raw)


def _parsed(name: str, number: int, raw: bytes) -> Mapping[str, Any] | Problem:
    try:
        record = json.loads(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        return Problem(name, number, f"is not UTF-8 at byte {error.start} of the line")
    except (ValueError, RecursionError) as error:
        return Problem(name, number, f"is not valid JSON ({error})")
    return (
        record
        if isinstance(record, dict)
        else Problem(name, number, f"holds a {type(record).__name__}, no object")
    )


def _json(path: Path) -> Records:
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: is not valid JSON ({error})") from None
    for number, record in enumerate(data if isinstance(data, list) else [data], 1):
        good = isinstance(record, dict)
        yield Origin(str(path), number), record if good else Problem(str(path), number, "is no object")


def _parquet(path: Path) -> Records:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches(batch_size=1024):
            for record in batch.to_pylist():
                number += 1
                yield Origin(str(path), number), record
    except pyarrow.ArrowException as error:
        raise DataError(f"{path}: is not a readable Parquet file ({' '.join(str(error).split())})") from None


def _hub(source: str) -> Records:
    import datasets

    name, _, split = source.removeprefix("hf://").partition(":")
    number = 0
    try:
        for record in datasets.load_dataset(name, split=split or "train", streaming=True):
            number += 1
            yield Origin(source, number), dict(record)
    except CoterieError:
        raise
    except (
        Exception
    ) as error:  # the Hub's clients raise types of several libraries; all mean that it cannot be read
        reason = " ".join(str(error).split())[:200]
        raise DataError(
            f"{source}: cannot be streamed from the Hub; check the name and the network ({reason})"
        ) from None
