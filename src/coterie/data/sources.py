"""Where documents come from: files, directories, JSONL, Parquet, the primer and the Hub, all as one stream.

A source that cannot be used as it was given is an error; a file met on a walk that is no text is skipped and
counted.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coterie.config.data import SourceConfig
from coterie.config.errors import CoterieError, DataError
from coterie.text.chat import Message, render
from coterie.text.tokenizer import CHATML

JSONL = frozenset({".jsonl", ".ndjson"})
PARQUET = frozenset({".parquet"})
PROSE = frozenset({"", ".txt", ".md", ".markdown", ".rst"})
CODE = frozenset(
    ".py .pyi .c .h .cc .cpp .hpp .cu .rs .go .java .kt .js .ts .jsx .tsx .rb .php .sh .sql .html .css .json .yaml "
    ".toml .xml .tex .lua .r .jl .hs .ml .scala .swift .cs .pl .f90 .ipynb".split()
)
PRIMER_BYTES = 14_000_000  # the generated slices have no end, so the primer is always asked for an amount
_SKIPPED_FOLDERS = frozenset({"__pycache__", "node_modules", "CVS"})
_SNIFF_BYTES = 8192


@dataclass(frozen=True)
class Document:
    """One text. `slice`: the kind it is counted and evaluated under. `number`: line or record in the source,
    from 1.

    `messages`: for a conversation, its turns; `text` is then one rendering of them, used for counting and
    comparing. `weight`: how often it is seen in one epoch of training.
    """

    text: str
    source: str
    slice: str = "text"
    number: int = 1
    messages: tuple[Message, ...] = ()
    weight: float = 1.0


@dataclass
class Report:
    """What reading met: documents and bytes read, and what was left out, counted by reason."""

    documents: int = 0
    num_bytes: int = 0
    skipped: Counter[str] = field(default_factory=Counter)


def read_sources(
    specs: Sequence[str | SourceConfig],
    text_field: str = "text",
    report: Report | None = None,
    max_bytes: int | None = None,
    seed: int = 0,
) -> Iterator[Document]:
    """Every document of every source, in a fixed order. `max_bytes` (UTF-8) stops the reading as a whole.

    `seed` chooses the primer's documents. Errors: `DataError`, one line, for a missing path, a binary file
    given directly, text that is not UTF-8, a bad line (with its number) or a source without any document.
    """
    report = Report() if report is None else report
    for spec in map(as_source, specs):
        found, used = False, 0
        for document in _read_one(spec, text_field, report, seed, max_bytes):
            if not document.text.strip():
                report.skipped["empty document"] += 1
                continue
            size = len(document.text.encode())
            if spec.max_bytes is not None and used + size > spec.max_bytes and found and not _is_primer(spec):
                report.skipped[f"rest of {spec.path} (its limit of {spec.max_bytes} bytes)"] += 1
                break
            if max_bytes is not None and report.num_bytes + size > max_bytes and report.documents:
                report.skipped[f"everything from {spec.path} on (max_bytes {max_bytes})"] += 1
                return
            found, used = True, used + size
            report.documents += 1
            report.num_bytes += size
            yield document
        if not found:
            raise DataError(f"{spec.path}: holds no text; give a source with at least one document")


def as_source(spec: str | SourceConfig) -> SourceConfig:
    """A source setting from its short form."""
    return SourceConfig(path=spec) if isinstance(spec, str) else spec


def _unreadable(error: OSError) -> None:
    raise DataError(f"{error.filename}: cannot be read ({error.strerror})") from None


def text_files(root: Path, skipped: Counter[str]) -> Iterator[Path]:
    """Files below `root` in sorted order; hidden entries, version control and caches are counted, not
    entered.
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


def is_binary(path: Path) -> bool:
    """Whether the first bytes hold a NUL: no text format does, UTF-16 apart (which is not read either)."""
    try:
        with path.open("rb") as stream:
            return b"\0" in stream.read(_SNIFF_BYTES)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None


def parse_record(record: Any, text_field: str) -> tuple[str, tuple[Message, ...]]:
    """Text and turns of one JSON or Parquet record. Errors: `DataError` that says which field is wrong."""
    if not isinstance(record, dict):
        raise DataError(
            f"holds a {type(record).__name__}; an object with '{text_field}' or 'messages' was expected"
        )
    if record.get(text_field) is not None:
        text = record[text_field]
        if not isinstance(text, str):
            raise DataError(f"field '{text_field}' is {type(text).__name__}; text was expected")
        _check_utf8(text)
        return text, ()
    turns = record.get("messages")
    if turns is None:
        raise DataError(
            f"has neither '{text_field}' nor 'messages' (fields: {', '.join(map(str, record)) or 'none'})"
        )
    if not isinstance(turns, list | tuple) or not all(isinstance(turn, dict) for turn in turns):
        raise DataError("field 'messages' is not a list of objects")
    messages = tuple(Message.from_dict(turn) for turn in turns)
    text = render(messages, CHATML.read_text(encoding="utf-8"))
    _check_utf8(text)
    return text, messages


def _check_utf8(text: str) -> None:
    """JSON can write half a surrogate pair, which no UTF-8 text can hold."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"has half a surrogate pair at character {error.start}") from None


def _is_primer(spec: SourceConfig) -> bool:
    return spec.path == "primer" or spec.path.startswith("primer@")


def _read_one(
    spec: SourceConfig, text_field: str, report: Report, seed: int, max_bytes: int | None
) -> Iterator[Document]:
    if spec.path.startswith("hf://"):
        return _read_hub(spec, text_field)
    if _is_primer(spec):
        return _read_primer(spec, seed, spec.max_bytes or max_bytes or PRIMER_BYTES)
    path = Path(spec.path).expanduser()
    if not path.exists():
        hint = "; the embedded corpus is called 'primer'" if "/" not in spec.path else ""
        raise DataError(f"{spec.path}: no such file or directory{hint}")
    if path.is_file():
        if path.suffix not in PARQUET and is_binary(path):
            raise DataError(f"{spec.path}: is a binary file; give text, Markdown, code, JSONL or Parquet")
        return _read_file(path, spec, text_field, spec.name or path.stem, _part_bytes(path.stat().st_size))
    return _read_directory(path, spec, text_field, report)


def _read_directory(root: Path, spec: SourceConfig, text_field: str, report: Report) -> Iterator[Document]:
    for path in text_files(root, report.skipped):
        if path.suffix in JSONL | PARQUET:
            yield from _read_file(path, spec, text_field, spec.name or path.stem, _MAX_PART)
            continue
        if is_binary(path):
            report.skipped["binary file"] += 1
            continue
        kind = "text" if path.suffix in PROSE else path.suffix[1:] if path.suffix in CODE else "other"
        try:
            yield from _read_file(path, spec, text_field, spec.name or kind, _MAX_PART)
        except _NotUtf8:
            report.skipped["file not in UTF-8"] += 1


def _read_file(
    path: Path, spec: SourceConfig, text_field: str, kind: str, part_bytes: int
) -> Iterator[Document]:
    if path.suffix in PARQUET:
        yield from _read_parquet(path, spec, text_field, kind)
        return
    if path.suffix in JSONL:
        yield from _read_jsonl(path, spec, text_field, kind)
        return
    raw = _read_bytes(path)
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise _NotUtf8(f"{path}:{line}: is not UTF-8 at byte {error.start}; convert it (iconv)") from None
    text = text.replace("\r\n", "\n")
    for line, part in _parts(text, part_bytes):
        yield Document(part, str(path), kind, line, weight=spec.weight)


class _NotUtf8(DataError):
    """Raised apart from other faults because a directory walk skips such files."""


_MAX_PART = 65536
_MIN_PART = 2048


def _part_bytes(size: int) -> int:
    """A single file is cut into about fifty documents, so that there is something to hold out."""
    return max(_MIN_PART, min(_MAX_PART, size // 50))


def _parts(text: str, limit: int) -> Iterator[tuple[int, str]]:
    """(first line, text) of parts of about `limit` characters, cut at blank lines if there are any, else at
    lines.
    """
    if len(text) <= limit:
        yield 1, text
        return
    part: list[str] = []
    size, first = 0, 1
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        full = size >= 2 * limit or (size >= limit and not part[-1].strip())
        if full:
            yield first, "".join(part)
            part, size, first = [], 0, number
        part.append(line)
        size += len(line)
    yield first, "".join(part)


def _read_jsonl(path: Path, spec: SourceConfig, text_field: str, kind: str) -> Iterator[Document]:
    try:
        with path.open("rb") as stream:
            for number, raw in enumerate(stream, 1):
                if not raw.strip():
                    continue
                try:
                    text, messages = parse_record(json.loads(raw.decode("utf-8-sig")), text_field)
                except UnicodeDecodeError as error:
                    raise DataError(
                        f"{path}:{number}: is not UTF-8 at byte {error.start} of the line"
                    ) from None
                except (ValueError, RecursionError) as error:
                    raise DataError(f"{path}:{number}: is not valid JSON ({error})") from None
                except DataError as error:
                    raise DataError(f"{path}:{number}: {error}") from None
                yield Document(text, str(path), kind, number, messages, spec.weight)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None


def _read_parquet(path: Path, spec: SourceConfig, text_field: str, kind: str) -> Iterator[Document]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(path)
        names = table.schema_arrow.names
        columns = [name for name in (text_field, "messages") if name in names]
        if not columns:
            raise DataError(
                f"{path}: has no column '{text_field}' or 'messages'; its columns: {', '.join(names)}"
            )
        number = 0
        for batch in table.iter_batches(columns=columns, batch_size=1024):
            for record in batch.to_pylist():
                number += 1
                try:
                    text, messages = parse_record(record, text_field)
                except DataError as error:
                    raise DataError(f"{path}: record {number} {error}") from None
                yield Document(text, str(path), kind, number, messages, spec.weight)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: is not a readable Parquet file ({' '.join(str(error).split())})") from None


def _read_primer(spec: SourceConfig, seed: int, num_bytes: int) -> Iterator[Document]:
    from coterie.data import primer
    from coterie.data.primer.base import VERSION

    version = spec.path.partition("@")[2]
    if version and version != str(VERSION):
        raise DataError(f"{spec.path}: this coterie holds primer@{VERSION}; use that or plain 'primer'")
    for number, document in enumerate(primer.documents(seed, num_bytes), 1):
        turns = tuple(Message.from_dict(turn) for turn in document.messages or ())
        yield Document(document.text, "primer", spec.name or document.slice, number, turns, spec.weight)


def _read_hub(spec: SourceConfig, text_field: str) -> Iterator[Document]:
    name, _, split = spec.path.removeprefix("hf://").partition(":")
    if name.count("/") != 1:
        raise DataError(f"{spec.path}: write a Hub dataset as hf://owner/name or hf://owner/name:split")
    import datasets

    number = 0
    try:
        for record in datasets.load_dataset(name, split=split or "train", streaming=True):
            number += 1
            text, messages = parse_record(record, text_field)
            yield Document(text, spec.path, spec.name or name, number, messages, spec.weight)
    except CoterieError as error:
        raise DataError(f"{spec.path}: record {number} {error}") from None
    except (
        Exception
    ) as error:  # the Hub's clients raise types of several libraries; all mean that it cannot be read
        reason = " ".join(str(error).split())[:200]
        raise DataError(
            f"{spec.path}: cannot be streamed from the Hub; check the name and the network ({reason})"
        ) from None


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None


def fingerprint(specs: Iterable[str | SourceConfig]) -> list[list[Any]]:
    """What tells whether sources have changed without reading them: name, size and time of every file."""
    result: list[list[Any]] = []
    for spec in map(as_source, specs):
        path = Path(spec.path).expanduser()
        named = _is_primer(spec) or spec.path.startswith("hf://")
        files = (
            []
            if named
            else list(text_files(path, Counter()))
            if path.is_dir()
            else [path]
            if path.is_file()
            else []
        )
        stats = [(file, file.stat()) for file in files]
        result.append([spec.path, *([str(file), stat.st_size, stat.st_mtime_ns] for file, stat in stats)])
    return result
