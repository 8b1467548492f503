"""Small files: hashing them, writing them whole or not at all, reading them within limits."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coterie.config.errors import ConfigError, CoterieError
from coterie.config.json_text import JsonError, JsonLimits, parse_json_object
from coterie.config.temporaries import replace_with, temporary

# Integers of files are counts, sizes and seeds; records of measurements may hold a loss that is not finite.
FILE_TEXT = JsonLimits(digits=40, not_finite=True)  # transformers writes 10^30 for "no limit"


def file_sha256(path: Path) -> str:
    """SHA-256 of a file in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_text(path: str | Path, text: str) -> None:
    """Write `text` under a temporary name, then rename, so that a reader never sees half a file."""
    with temporary(path) as part:
        part.write_text(text, encoding="utf-8")
        replace_with(part, path)


def write_json(path: str | Path, data: Mapping[str, Any], indent: int | None = 1) -> None:
    """Write a JSON object as `write_text` does."""
    write_text(path, json.dumps(data, indent=indent) + "\n")


def open_regular(path: str | Path) -> io.BufferedReader:
    """Open a file for reading, never blocking.

    A named pipe, a socket or a device could keep the reader for ever, so they are refused, except under
    /dev, where shells put what they pass to a command (`<(...)`, /dev/stdin).
    Errors: `OSError` with a reason, for a directory too.
    """
    passed = str(path).startswith(("/dev/", "/proc/self/fd/"))
    flags = 0 if passed else getattr(os, "O_NONBLOCK", 0)
    file = open(os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | flags), "rb")  # noqa: SIM115
    mode = os.fstat(file.fileno()).st_mode
    if stat.S_ISREG(mode) or passed:
        return file
    file.close()
    raise OSError(errno.EINVAL, "Not a regular file", str(path))


def read_bytes(path: str | Path, size: int) -> bytes:
    """The bytes of a file, at most `size` of them and one more, which tells the caller that there are more.

    Errors: those of `open_regular`.
    """
    with open_regular(path) as file:
        return file.read(size + 1)


def present(path: Path, error: type[CoterieError]) -> bool:
    """Whether a file that may be absent is there.

    Errors: `error` for anything else that has the name: a link to nothing (half a download), a directory, a
    pipe. Taken as absent, it would leave the defaults to decide without a word.
    """
    if path.is_file():
        return True
    if os.path.lexists(path):
        kind = "a link to nothing" if path.is_symlink() else "a directory" if path.is_dir() else "not a file"
        raise error(f"{path}: is {kind}; fetch the file again, or remove it")
    return False


def read_json(
    path: str | Path, hint: str = "", error: type[CoterieError] = ConfigError, limits: JsonLimits = FILE_TEXT
) -> dict[str, Any]:
    """The JSON object in a file. `hint`: advice to add to an error, such as "give a file of coterie select".

    Errors: `error`, one line, for a file that cannot be read, goes beyond `limits`, is not JSON, or is not an
    object.
    """
    end = f"; {hint}" if hint else ""
    try:
        return parse_json_object(read_bytes(path, limits.size), limits)
    except OSError as problem:
        raise error(f"{path}: cannot be read ({problem.strerror}){end}") from None
    except JsonError as problem:
        raise error(f"{path}: {problem}{end}") from None
