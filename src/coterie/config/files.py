"""Small files: hashing them, writing them whole or not at all, reading JSON with one-line errors."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coterie.config.errors import ConfigError, CoterieError


def file_sha256(path: Path) -> str:
    """SHA-256 of a file in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_text(path: str | Path, text: str) -> None:
    """Write `text` under a temporary name, then rename, so that a reader never sees half a file."""
    path = Path(path)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def write_json(path: str | Path, data: Mapping[str, Any], indent: int | None = 1) -> None:
    """Write a JSON object as `write_text` does."""
    write_text(path, json.dumps(data, indent=indent) + "\n")


def read_json(path: str | Path, hint: str = "", error: type[CoterieError] = ConfigError) -> dict[str, Any]:
    """The JSON object in a file. `hint`: advice to add to an error, such as "give a file of coterie select".

    Errors: `error`, one line, for a file that cannot be read, is not JSON, or is not an object.
    """
    end = f"; {hint}" if hint else ""
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as problem:
        raise error(f"{path}: cannot be read ({problem.strerror}){end}") from None
    except (ValueError, RecursionError) as problem:
        raise error(f"{path}: is not valid JSON ({problem}){end}") from None
    if not isinstance(data, dict):
        raise error(f"{path}: holds a {type(data).__name__}, an object was expected{end}")
    return data
