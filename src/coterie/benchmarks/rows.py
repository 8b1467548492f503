"""Rows of files as a user or a publisher wrote them, with the place of each for error messages."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from coterie.config import ConfigError
from coterie.config.json_text import JsonError, parse_json
from coterie.data.records import Problem, read_file

_MOST = 512 * 2**20  # bytes of an unpacked file
Row = tuple[str, Mapping[str, Any]]  # place, such as `file:3`, and fields


def read_rows(path: Path, lines: bool = False) -> Iterator[Row]:
    """The rows of a JSONL, JSON or Parquet file, packed by gzip or not.

    `lines`: the file holds an object a line, whatever its name.
    Errors: `ConfigError`, one line with file and line, for what cannot be read and for a row that is none.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: there is no such file")
    if path.suffix == ".gz" or lines:
        yield from _lines(path)
        return
    for origin, record in read_file(path):
        if isinstance(record, Problem):
            raise ConfigError(str(record))
        yield str(origin), record


def _lines(path: Path) -> Iterator[Row]:
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            data = file.read(_MOST + 1)
    except (OSError, EOFError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from None
    if len(data) > _MOST:
        raise ConfigError(f"{path}: holds more than the {_MOST:,} bytes that are read")
    for number, line in enumerate(data.splitlines(), 1):
        if line.strip():
            try:
                record = parse_json(line)
            except JsonError as error:
                raise ConfigError(f"{path}:{number}: {error}") from None
            if not isinstance(record, dict):
                raise ConfigError(f"{path}:{number}: holds a {type(record).__name__}, not an object")
            yield f"{path}:{number}", record


def read_table(path: Path, columns: int) -> Iterator[tuple[str, list[str]]]:
    """The rows of a CSV file without a head. Errors: `ConfigError` for a row of another length."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})"[:300]) from None
    reader = csv.reader(io.StringIO(text, newline=""))
    for row in reader:
        place = f"{path}:{reader.line_num}"
        if len(row) != columns:
            raise ConfigError(f"{place}: has {len(row)} columns, not {columns}")
        yield place, row


def field(place: str, row: Mapping[str, Any], name: str, kind: type | tuple[type, ...]) -> Any:
    """A field of a row. Errors: `ConfigError` where it is missing or of another type."""
    if name not in row:
        raise ConfigError(f"{place}: has no '{name}'")
    value = row[name]
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        said = json.dumps(value, default=str)[:40]
        raise ConfigError(f"{place}: '{name}' is {said}; {_named(kind)} was expected")
    return value


def _named(kind: type | tuple[type, ...]) -> str:
    kinds = kind if isinstance(kind, tuple) else (kind,)
    names = {str: "a text", list: "a list", dict: "an object", int: "a whole number", float: "a number"}
    return " or ".join(names.get(one, one.__name__) for one in kinds)
