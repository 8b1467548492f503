"""Files of lines that only grow: several processes append, and a kill leaves whole lines.

A writer holds the file's lock (`flock`) while it appends, and the kernel drops the lock when the writer ends,
however it ends. A last line without its newline was never finished; the next writer removes it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

from coterie.config import CoterieError
from coterie.config.files import open_regular

try:
    import fcntl
except ImportError:  # not POSIX: nothing locks there, so one process may append at a time
    fcntl = None  # type: ignore[assignment]

_log = logging.getLogger("coterie")
_BLOCK = 65_536


def append_line(path: Path, line_after: Callable[[bytes], bytes]) -> bytes:
    """Append one line and flush it to the disk; the line.

    `line_after`: gives the new line, without its newline, from the last one (b"" in an empty file); it is
    called while the file is locked. Errors: `CoterieError` where the system refuses.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            if fcntl is not None:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            size, last = _end(descriptor)
            if size < os.fstat(descriptor).st_size:
                _log.warning("%s: its last line was never finished, and is removed", path)
                os.ftruncate(descriptor, size)
            line = line_after(last)
            content = memoryview(line + b"\n")
            try:
                while len(content):
                    content = content[os.write(descriptor, content) :]
                os.fsync(descriptor)
            except OSError:
                os.ftruncate(descriptor, size)
                raise
        finally:
            os.close(descriptor)
    except OSError as error:
        raise CoterieError(f"{path}: cannot be written ({error.strerror})") from None
    return line


def whole_lines(path: Path) -> tuple[list[bytes], bool]:
    """The lines of a file without their newlines, and whether a last one was never finished.

    Errors: `CoterieError` for a file that cannot be read.
    """
    try:
        with open_regular(path) as file:
            *lines, rest = file.read().split(b"\n")
    except OSError as error:
        raise CoterieError(f"{path}: cannot be read ({error.strerror})") from None
    return lines, bool(rest)


def _end(descriptor: int) -> tuple[int, bytes]:
    """Where the last whole line ends, and that line."""
    size = os.fstat(descriptor).st_size
    tail, start = b"", size
    while start > 0 and tail.count(b"\n") < 3:  # of a torn line, the newline before it, and that of the last
        step = min(_BLOCK, start)
        start -= step
        tail = os.pread(descriptor, step, start) + tail
    end = tail.rfind(b"\n") + 1
    if not end:
        return 0, b""
    return size - len(tail) + end, tail[:end].splitlines()[-1]
