"""Whether a file is in GGUF, told without the reader, which needs torch."""

from __future__ import annotations

from pathlib import Path

from coterie.config.files import open_regular


def is_gguf(path: Path) -> bool:
    """Whether a file begins like one, whatever its name. Errors: none; what cannot be read is not one."""
    try:
        with open_regular(path) as file:
            return file.read(4) == b"GGUF"
    except OSError:
        return False
