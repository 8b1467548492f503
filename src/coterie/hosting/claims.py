"""Which of several servers with one state folder does a job: the one that holds its lock."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from coterie.config.temporaries import locked


@contextlib.contextmanager
def claim(folder: Path, id: str) -> Iterator[bool]:
    """Whether this server does the job, which then stays its own inside. A killed server's claim ends.

    Errors: `OSError` when the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / f"{id}.lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        mine = os.name == "nt" or locked(descriptor)  # Windows has no locks of this kind
        yield mine
        if mine:
            with contextlib.suppress(OSError):
                os.unlink(path)
    finally:
        os.close(descriptor)
