"""Where documents come from: files, folders, JSONL, Parquet, the primer and the Hub, as one stream.

    SourceConfig --> text file, cut into parts ----------------------.
                 --> records (data/records.py) --> text or messages --> Document
                 --> primer -----------------------------------------'

A source that cannot be used as given is an error. A file found in a folder that is not text is skipped and
counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coterie.config.data import SourceConfig
from coterie.config.errors import DataError
from coterie.data.documents import Document
from coterie.data.fields import check_lost
from coterie.data.records import (
    JSONL,
    PARQUET,
    Problem,
    Records,
    demand,
    is_binary,
    read_file,
    read_hub,
    read_text,
    walk,
)
from coterie.data.turns import read_turns
from coterie.text.chat import Message, conversation_ids, render
from coterie.text.tokenizer import CHATML, Tokenizer

PROSE = frozenset({"", ".txt", ".md", ".markdown", ".rst"})
CODE = frozenset(
    ".py .pyi .c .h .cc .cpp .hpp .cu .rs .go .java .kt .js .ts .jsx .tsx .rb .php .sh .sql .html .css .json "
    ".yaml .toml .xml .tex .lua .r .jl .hs .ml .scala .swift .cs .pl .f90 .ipynb".split()
)
PRIMER_BYTES = 14_000_000  # the generated slices are endless, so reading the primer needs a limit


@dataclass
class ReadingReport:
    """Documents and bytes that were read, and what was left out, counted by reason."""

    documents: int = 0
    num_bytes: int = 0
    skipped: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Reading:
    """How sources are read. The counts of the reading collect in `report`.

    `text_field`: the field of a record that holds its text. `seed` chooses the primer's documents.
    `max_bytes` (UTF-8) ends the reading of all sources together. `tokenizer`: renders conversations with its
    chat template.
    """

    text_field: str = "text"
    seed: int = 0
    max_bytes: int | None = None
    tokenizer: Tokenizer | None = None
    report: ReadingReport = field(default_factory=ReadingReport)

    @property
    def columns(self) -> tuple[str, str]:
        """The fields of a record that are read."""
        return self.text_field, "messages"


def read_sources(specs: Sequence[str | SourceConfig], reading: Reading | None = None) -> Iterator[Document]:
    """Every document of every source, in a fixed order.

    Errors: `DataError`, one line, for a missing path, a binary file given directly, text that is not UTF-8, a
    bad line (with its number), a conversation that the tokenizer's template cannot render, or a source
    without a document.
    """
    reading = reading or Reading()
    report = reading.report
    for spec in map(as_source, specs):
        found, used = False, 0
        for document in _read_one(spec, reading):
            if not document.text.strip():
                report.skipped["empty document"] += 1
                continue
            size = len(document.text.encode())
            if spec.max_bytes is not None and used + size > spec.max_bytes and found and not _is_primer(spec):
                report.skipped[f"rest of {spec.path} (its limit of {spec.max_bytes} bytes)"] += 1
                break
            limit = reading.max_bytes
            if limit is not None and report.num_bytes + size > limit and report.documents:
                report.skipped[f"everything from {spec.path} on (max_bytes {limit})"] += 1
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


def text_of(record: Mapping[str, Any], text_field: str) -> str | tuple[Message, ...]:
    """The text of a JSON or Parquet record, or the turns of its conversation.

    Errors: `DataError` that names the wrong field.
    """
    has_text, turns = record.get(text_field) is not None, record.get("messages")
    if has_text and turns is not None:
        raise DataError(
            f"has '{text_field}' and 'messages', so it is not clear which is meant; keep one of them"
        )
    if not has_text and turns is None:
        raise DataError(
            f"has neither '{text_field}' nor 'messages' (fields: {', '.join(map(str, record)) or 'none'})"
        )
    name = text_field if has_text else "messages"
    check_lost(record, (other for other in record if other != name), name)
    if has_text:
        text = record[text_field]
        if not isinstance(text, str):
            raise DataError(f"field '{text_field}' is {type(text).__name__}; text was expected")
        check_utf8(text)
        return text
    read = read_turns(turns, "messages")
    if unlearnt := [number for number, turn in enumerate(read, 1) if turn.mark is False]:
        raise DataError(
            f"marks turn {unlearnt[0]} as not to be learnt, and training on text learns all of it; use "
            "`coterie tune`, or remove the mark"
        )
    return tuple(turn.message for turn in read)


def rendered(messages: Sequence[Message], tokenizer: Tokenizer | None) -> tuple[str, tuple[int, ...] | None]:
    """A conversation as (text, ids): in the template of `tokenizer`, or in ChatML with ids None.

    Errors: `DataError` if the template cannot render the conversation, or the text is not valid Unicode.
    """
    if tokenizer is not None and tokenizer.chat_template is not None:
        ids = conversation_ids(tokenizer, messages)
        return tokenizer.decode(ids), tuple(ids)
    # Without a tokenizer, one will be trained on this text and get the ChatML template (`Tokenizer.train`).
    # So the model sees this text, but its ids can only be made once the tokenizer exists. `document_ids` then
    # renders once more: only `conversation_ids` keeps special tokens in a message's words from taking effect.
    text = render(messages, CHATML.read_text(encoding="utf-8"))
    check_utf8(text)
    return text, None


def check_utf8(text: str) -> None:
    """Errors: `DataError` for half a surrogate pair, which JSON can express and UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"has half a surrogate pair at character {error.start}") from None


def _is_primer(spec: SourceConfig) -> bool:
    return spec.path == "primer" or spec.path.startswith("primer@")


def _read_one(spec: SourceConfig, reading: Reading) -> Iterator[Document]:
    if spec.path.startswith("hf://"):
        name = spec.path.removeprefix("hf://").partition(":")[0]
        return _documents(read_hub(spec.path), spec, spec.name or name, reading)
    if _is_primer(spec):
        return _read_primer(spec, reading)
    path = Path(spec.path).expanduser()
    if not path.exists():
        hint = "; the embedded corpus is called 'primer'" if "/" not in spec.path else ""
        raise DataError(f"{spec.path}: no such file or directory{hint}")
    if path.is_file():
        return _read_single(path, spec, reading)
    return _read_folder(path, spec, reading)


def _documents(records: Records, spec: SourceConfig, kind: str, reading: Reading) -> Iterator[Document]:
    """Records as documents; the first problem is an error."""
    for origin, record in demand(records):
        ids = None
        messages: tuple[Message, ...] = ()
        try:
            found = text_of(record, reading.text_field)
            if not isinstance(found, str):
                messages, (found, ids) = found, rendered(found, reading.tokenizer)
        except DataError as error:
            raise DataError(f"{origin}: {error}") from None
        yield Document(found, origin.file, kind, origin.line, messages, spec.weight, ids)


@dataclass(frozen=True)
class _Unusable:
    """Why a file is not read: the reason it is counted under, and the message if it was given directly."""

    reason: str
    message: str


def _read_single(path: Path, spec: SourceConfig, reading: Reading) -> Iterator[Document]:
    """A file that was given directly, so it must be readable as text or records."""
    found = _read_file(path, spec, path.stem, _part_chars(path.stat().st_size), reading)
    if isinstance(found, _Unusable):
        raise DataError(found.message)
    return found


def _read_folder(root: Path, spec: SourceConfig, reading: Reading) -> Iterator[Document]:
    for path in walk(root, reading.report.skipped):
        kind = "text" if path.suffix in PROSE else path.suffix[1:] if path.suffix in CODE else "other"
        found = _read_file(path, spec, kind, _MAX_PART, reading)
        if isinstance(found, _Unusable):
            reading.report.skipped[found.reason] += 1
        else:
            yield from found


def _read_file(
    path: Path, spec: SourceConfig, kind: str, part_chars: int, reading: Reading
) -> Iterator[Document] | _Unusable:
    """The documents of one file. `kind`: the slice of a text; records have the file's name as slice."""
    if path.suffix in JSONL | PARQUET:
        return _documents(read_file(path, reading.columns), spec, spec.name or path.stem, reading)
    if is_binary(path):
        message = f"{path}: is a binary file; give text, Markdown, code, JSONL or Parquet"
        return _Unusable("binary file", message)
    text = read_text(path)
    if isinstance(text, Problem):
        return _Unusable("file not in UTF-8", str(text))
    return (
        Document(part, str(path), spec.name or kind, line, weight=spec.weight)
        for line, part in _parts(text, part_chars)
    )


def _read_primer(spec: SourceConfig, reading: Reading) -> Iterator[Document]:
    from coterie import primer
    from coterie.primer.base import VERSION

    version = spec.path.partition("@")[2]
    if version and version != str(VERSION):
        raise DataError(f"{spec.path}: this coterie holds primer@{VERSION}; use that or plain 'primer'")
    num_bytes = spec.max_bytes or reading.max_bytes or PRIMER_BYTES
    for number, document in enumerate(primer.documents(reading.seed, num_bytes), 1):
        turns = tuple(Message.from_dict(turn) for turn in document.messages or ())
        text, ids = document.text, None
        if turns and reading.tokenizer is not None:
            text, ids = rendered(turns, reading.tokenizer)
        yield Document(text, "primer", spec.name or document.slice, number, turns, spec.weight, ids)


_MAX_PART = 65536  # characters
_MIN_PART = 2048


def _part_chars(size: int) -> int:
    """A single file of `size` bytes is cut into about fifty documents, so that some can be held out."""
    return max(_MIN_PART, min(_MAX_PART, size // 50))


def _parts(text: str, limit: int) -> Iterator[tuple[int, str]]:
    """(first line, text) of parts of about `limit` characters, cut at blank lines, or else at any line."""
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


def fingerprint(specs: Iterable[str | SourceConfig]) -> list[list[Any]]:
    """Name, size and modification time of every source file: shows a change without reading the files."""
    result: list[list[Any]] = []
    for spec in map(as_source, specs):
        path = Path(spec.path).expanduser()
        files: list[Path] = []
        if not (_is_primer(spec) or spec.path.startswith("hf://")):
            if path.is_dir():
                files = list(walk(path, Counter()))
            elif path.is_file():
                files = [path]
        stats = [(file, file.stat()) for file in files]
        result.append([spec.path, *([str(file), stat.st_size, stat.st_mtime_ns] for file, stat in stats)])
    return result
