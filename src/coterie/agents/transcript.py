"""Conversations on disk: one line of JSON with `messages` and `tools`, which is also tuning data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coterie.config.errors import DataError
from coterie.config.files import write_text
from coterie.config.json_text import JsonError, parse_json
from coterie.text.chat import Message
from coterie.text.printable import joined


def write_row(path: Path, row: Mapping[str, Any]) -> None:
    """Write a file of one conversation, by rename. Errors: `DataError` if it cannot be written."""
    try:
        write_text(path, joined(json.dumps(row, ensure_ascii=False)) + "\n")
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; name a file in a folder that can be written") from None


def read_conversation(path: Path) -> tuple[tuple[Message, ...], dict[str, Any]]:
    """The messages of a file's only conversation, and the whole row. Errors: `DataError`, one line."""
    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: {getattr(error, 'strerror', None) or 'not UTF-8 text'}") from None
    if len(lines) != 1:
        raise DataError(f"{path}: holds {len(lines)} lines; one conversation (one line of JSON) was expected")
    try:
        row = parse_json(lines[0])
    except JsonError as error:
        raise DataError(f"{path}: {error}") from None
    given = row.get("messages") if isinstance(row, dict) else None
    if not isinstance(given, list) or not all(isinstance(message, dict) for message in given):
        raise DataError(f"{path}: has no 'messages', a list of objects with role and content")
    try:
        return tuple(Message.from_dict(message) for message in given), row
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
