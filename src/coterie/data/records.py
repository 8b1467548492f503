"""The one reader of records and files: JSON lines, JSON, Arrow, folders, the Hub and standard input.

    file, folder --.
    standard input --> (Origin, record | Problem) --.--> sources.read_sources    a Problem is raised
    hf://owner/name --'                             |--> examples.read_examples  Problems are collected
    embedded examples -'                            '--> lint.lint               Problems are collected

A record that cannot be read becomes a `Problem` with its file and line, and reading continues after it. What
to do with problems is the reader's policy: `demand` raises the first one. A file or Hub dataset that cannot
be read at all is a `DataError`.
"""

from __future__ import annotations

import io
import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from coterie.config.errors import DataError
from coterie.config.json_text import JsonError, JsonLimits, parse_json
from coterie.data.arrow import arrow_records, without_padding
from coterie.primer.lessons import lessons

JSONL = frozenset({".jsonl", ".ndjson"})
PARQUET = frozenset({".parquet"})
ARROW = frozenset({".arrow"})
RECORDS = JSONL | PARQUET | ARROW | {".json"}
# Examples that coterie ships: short conversations, and lessons in using tools.
EMBEDDED = (
    "starter",
    "tools",
)
_STARTER = Path(__file__).parent / "conversations" / "starter.jsonl"
_SKIPPED_FOLDERS = frozenset({"__pycache__", "node_modules", "CVS"})
_SNIFF_BYTES = 8192
MAX_LINE = 64 * 2**20  # bytes of one record
_ONE_LINE = JsonLimits(size=MAX_LINE)
_WHOLE_FILE = JsonLimits(size=2**32)
_TABLES = frozenset({".csv", ".tsv", ".xlsx"})
_MAGIC = {
    b"\x1f\x8b": "is compressed (gzip); unpack it first",
    b"PK\x03\x04": "is compressed (zip); unpack it first",
    b"BZh": "is compressed (bzip2); unpack it first",
    b"\xfd7zXZ": "is compressed (xz); unpack it first",
    b"\x28\xb5\x2f\xfd": "is compressed (zstd); unpack it first",
    b"PAR1": "is a Parquet file; name it .parquet",
    b"ARROW1": "is an Arrow file; name it .arrow",
    b"\xff\xfe": "is in UTF-16; convert it to UTF-8 (iconv)",
    b"\xfe\xff": "is in UTF-16; convert it to UTF-8 (iconv)",
}


@dataclass(frozen=True)
class Origin:
    """Where a record was read: its file, and its line or number from 1."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True)
class Problem:
    """One fault. `line` counts from 1 (records in Parquet, the Hub and the primer); 0 is the whole file.

    `warning`: training may go on in spite of it.
    """

    path: str
    line: int
    message: str
    warning: bool = False

    def __str__(self) -> str:
        where = f"{self.path}:{self.line}" if self.line else self.path
        return f"{where}: {'warning: ' if self.warning else ''}{self.message}"


Records = Iterator[tuple[Origin, Mapping[str, Any] | Problem]]


def demand(records: Records) -> Iterator[tuple[Origin, Mapping[str, Any]]]:
    """The records, with their origins.

    Errors: `DataError` for the first `Problem` among them.
    """
    for origin, record in records:
        if isinstance(record, Problem):
            raise DataError(str(record))
        yield origin, record


def read_records(source: str) -> Records:
    """Every record of a source of examples, or the problem in its place.

    `source`: a file, a folder, `hf://owner/name[:split]`, `-` (standard input), `starter` or `tools`.
    Errors: `DataError` if the source itself cannot be read.
    """
    if source == "-":
        yield from _read_lines("standard input", sys.stdin.buffer)
        return
    if source.startswith("hf://"):
        yield from read_hub(source)
        return
    if source in EMBEDDED and Path(source).exists():
        raise DataError(
            f"{source}: names both examples that coterie ships and a path here; write ./{source} for the path"
        )
    if source == "tools":
        yield from ((Origin(source, number), record) for number, record in enumerate(lessons(), 1))
        return
    path = _STARTER if source == "starter" else Path(source).expanduser()
    if path.is_dir():
        files = [file for file in walk(path, Counter()) if file.suffix in RECORDS]
        if any(file.suffix in ARROW for file in files):  # `datasets` writes descriptions next to its data
            files = [file for file in files if file.name not in ("dataset_info.json", "state.json")]
        if not files:
            raise DataError(f"{source}: has no .jsonl, .json, .parquet or .arrow file")
        for file in files:
            yield from read_file(file)
        return
    if not path.is_file():
        raise DataError(
            f"{source}: no such file or directory; the examples that coterie ships are 'starter' and 'tools'"
        )
    yield from read_file(path)


def read_file(path: Path, columns: Sequence[str] = ()) -> Records:
    """The records of one JSONL, JSON, Parquet or Arrow file; other suffixes are read as JSONL.

    `columns`: the only columns to read of a Parquet file (default: all).
    Errors: `DataError` for a file that cannot be read, or a Parquet file with none of the columns.
    """
    try:
        if path.suffix in PARQUET | ARROW:
            for number, record in enumerate(arrow_records(path, columns), 1):
                origin = Origin(str(path), number)
                if isinstance(record, DataError):
                    yield origin, Problem(origin.file, number, str(record))
                else:
                    yield origin, record
        elif path.suffix == ".json":
            yield from _read_json(path)
        elif path.suffix in _TABLES:
            raise DataError(f"{path}: tables of text are not read; write it as JSON lines or Parquet")
        else:
            with path.open("rb") as stream:
                yield from _read_lines(str(path), stream)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None


def _read_lines(name: str, stream: IO[bytes]) -> Records:
    number = 0
    while raw := stream.readline(MAX_LINE + 1):
        number += 1
        if number == 1 and (reason := _no_text(raw)):
            raise DataError(f"{name}: {reason}")
        if len(raw) > MAX_LINE:
            while (more := stream.readline(MAX_LINE)) and not more.endswith(b"\n"):
                pass
            message = f"is longer than {MAX_LINE // 2**20} MiB; split this record"
            yield Origin(name, number), Problem(name, number, message)
        elif raw.strip(b"\xef\xbb\xbf \t\r\n"):
            try:
                yield _checked(Origin(name, number), parse_json(raw.rstrip(b"\r\n"), _ONE_LINE))
            except JsonError as error:
                yield Origin(name, number), Problem(name, number, str(error))


def _no_text(raw: bytes) -> str | None:
    """Why the first bytes of a file cannot begin JSON in UTF-8, if they cannot."""
    for magic, what in _MAGIC.items():
        if raw.startswith(magic):
            return what
    return "holds binary data; JSON lines in UTF-8 were expected" if b"\0" in raw[:_SNIFF_BYTES] else None


def _checked(origin: Origin, record: Any) -> tuple[Origin, Mapping[str, Any] | Problem]:
    if isinstance(record, dict):
        return origin, record
    message = f"holds a {type(record).__name__}; an object was expected"
    return origin, Problem(origin.file, origin.line, message)


def _read_json(path: Path) -> Records:
    """The records of a JSON file: a list of objects, one object, or JSON lines under this name."""
    raw = path.read_bytes()
    if reason := _no_text(raw[:_SNIFF_BYTES]):
        raise DataError(f"{path}: {reason}")
    if not raw.strip():
        return
    try:
        data = parse_json(raw, _WHOLE_FILE)
    except JsonError as error:
        first, _, rest = raw.removeprefix(b"\xef\xbb\xbf").lstrip().partition(b"\n")
        if not (first.startswith(b"{") and first.rstrip().endswith(b"}") and rest.strip()):
            raise DataError(f"{path}: {error}") from None
        yield from _read_lines(str(path), io.BytesIO(raw))
        return
    for number, record in enumerate(data if isinstance(data, list) else [data], 1):
        yield _checked(Origin(str(path), number), record)


def read_hub(source: str) -> Records:
    """The records of a Hub dataset `hf://owner/name[:split]`, streamed (default split: train).

    Errors: `DataError` for another form of name, or a dataset that cannot be streamed.
    """
    name, _, split = source.removeprefix("hf://").partition(":")
    if name.count("/") != 1:
        raise DataError(f"{source}: write a Hub dataset as hf://owner/name or hf://owner/name:split")
    import datasets

    number = 0
    try:
        for record in datasets.load_dataset(name, split=split or "train", streaming=True):
            number += 1
            yield Origin(source, number), without_padding(dict(record))
    except Exception as error:  # the Hub's clients raise types of several libraries
        reason = " ".join(str(error).split())[:200]
        raise DataError(
            f"{source}: cannot be streamed from the Hub; check the name and the network ({reason})"
        ) from None


def read_text(path: Path) -> str | Problem:
    """The text of a file with line ends as `\\n`, or the problem that it is not UTF-8, with its line.

    Errors: `DataError` for a file that cannot be read.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        return raw.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        return Problem(str(path), line, f"is not UTF-8 at byte {error.start}; convert it (iconv)")


def is_binary(path: Path) -> bool:
    """Whether the first bytes hold a NUL, which no supported text encoding does.

    Errors: `DataError` for a file that cannot be read.
    """
    try:
        with path.open("rb") as stream:
            return b"\0" in stream.read(_SNIFF_BYTES)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None


def walk(root: Path, skipped: Counter[str]) -> Iterator[Path]:
    """Files below `root` in sorted order. `skipped` counts hidden entries, version control and caches.

    Errors: `DataError` for a folder that cannot be read.
    """
    for folder, names, files in os.walk(root, onerror=_unreadable):
        hidden = [name for name in names if name.startswith(".") or name in _SKIPPED_FOLDERS]
        skipped["hidden or cache folder"] += len(hidden)
        names[:] = sorted(set(names) - set(hidden))
        for name in sorted(files):
            path = Path(folder) / name
            if name.startswith("."):
                skipped["hidden file"] += 1
            elif not path.is_file():
                skipped["not a regular file"] += 1
            else:
                yield path


def _unreadable(error: OSError) -> None:
    raise DataError(f"{error.filename}: cannot be read ({error.strerror})") from None
