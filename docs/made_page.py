"""What the makers of pages in this folder share."""

from __future__ import annotations

import sys
from pathlib import Path


def write_or_check(path: Path, page: str) -> None:
    """Write a page; with `--check`, fail unless the file holds it already."""
    if "--check" not in sys.argv:
        path.write_text(page)
    elif not path.is_file() or path.read_text() != page:
        sys.exit(f"{path.name} is not up to date; ")
