"""Names to write under until a file or directory is whole, and the removal of what killed writers left.

A temporary is called `NAME.tmp-PID-MARK` and lies next to NAME, so on its file system; its writer locks it
(`flock`). The kernel drops the lock when the writer ends, however it ends, so a temporary that can be
locked is dead: process ids come back, and differ between containers that share a folder; a held lock does
neither. The next writer into the same folder removes the dead ones. Where the file system cannot lock,
nothing is removed.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from coterie.config.errors import CoterieError

try:
    import fcntl
except ImportError:  # not POSIX: temporaries work there, and stay after a kill
    fcntl = None  # type: ignore[assignment]

_NAME = re.compile(r"(?P<name>.+)\.(?P<kind>tmp|old)-(?P<writer>\d+-[0-9a-f]{8})", re.DOTALL)


@contextmanager
def temporary(final: str | Path, directory: bool = False) -> Iterator[Path]:
    """A new empty file next to `final`; or a new directory, whose parents are made where they are missing.

    The caller fills it and calls `replace_with`; what is not renamed is removed at the end. What writers that
    were killed left in the same folder is removed first.
    Errors: `OSError` when the system refuses.
    """
    final = Path(os.path.abspath(final))
    if directory:
        final.parent.mkdir(parents=True, exist_ok=True)
    remove_dead(final.parent)
    path, lock = _locked(final, directory)
    try:
        yield path
    except CoterieError as error:  # errors may name the temporary, which nobody will find
        error.args = tuple(str(part).replace(str(path), str(final)) for part in error.args)
        raise
    except OSError as error:
        if isinstance(error.filename, str):
            error.filename = error.filename.replace(str(path), str(final))
        raise
    finally:
        discard(path)
        os.close(lock)


def replace_with(temporary_path: Path, final: str | Path) -> None:
    """Flush a temporary to the disk and give it its name: all of it appears at once.

    A directory that is in the way is set aside first, and returns if the rename fails.
    Errors: `OSError` when the system refuses.
    """
    final = Path(os.path.abspath(final))
    flush(temporary_path)
    if not (temporary_path.is_dir() and final.exists()):
        os.replace(temporary_path, final)
        sync(final.parent)
        return
    writer = _matched(temporary_path)["writer"]
    aside = final.with_name(f"{final.name}.old-{writer}")
    os.rename(final, aside)
    try:
        os.rename(temporary_path, final)
    except BaseException:
        os.rename(aside, final)
        raise
    sync(final.parent)
    discard(aside)


def remove_tree(path: Path) -> None:
    """Delete a directory; a kill half-way never leaves part of it under its name."""
    hidden = path.with_name(f"{path.name}.tmp-{os.getpid()}-{secrets.token_hex(4)}")
    os.rename(path, hidden)
    discard(hidden)


def remove_dead(folder: Path) -> None:
    """Remove from a folder what writers that were killed left there.

    A directory that was set aside for a replacement returns if the replacement never came.
    """
    try:
        names = sorted(os.listdir(folder))
    except OSError:  # whoever writes there will hear why
        return
    for path, match in ((folder / name, _NAME.fullmatch(name)) for name in names):
        if fcntl is None or match is None or path.is_symlink():
            continue
        original = path.with_name(match["name"])
        # A writer that sets a directory aside holds the lock of what will replace it.
        writes = path if match["kind"] == "tmp" else path.with_name(f"{match['name']}.tmp-{match['writer']}")
        with _if_dead(writes) as dead:
            if dead and match["kind"] == "old" and not original.exists():
                os.rename(path, original)
            elif dead:
                discard(path)


def locked(descriptor: int) -> bool:
    """Lock an open file or directory until it is closed; False where another holds it, or nothing locks."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def discard(path: Path) -> None:
    """Delete a file or directory as far as the system allows; nothing is wrong if it is gone."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def flush(path: Path) -> None:
    """Flush a file, or a directory with all that it holds, to the disk."""
    for part in [*path.rglob("*"), path] if path.is_dir() else [path]:
        sync(part)


def sync(path: Path) -> None:
    """Flush one file or directory entry list to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _matched(path: Path) -> re.Match[str]:
    match = _NAME.fullmatch(path.name)
    if match is None:
        raise ValueError(f"{path.name} is not the name of a temporary")
    return match


def _locked(final: Path, directory: bool) -> tuple[Path, int]:
    """A new locked temporary and the open descriptor that holds the lock."""
    while True:
        path = final.with_name(f"{final.name}.tmp-{os.getpid()}-{secrets.token_hex(4)}")
        try:
            if directory:
                path.mkdir()
            flags = os.O_RDONLY if directory else os.O_RDWR | os.O_CREAT | os.O_EXCL
            descriptor = os.open(path, flags, 0o666)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(final)) from None
        if fcntl is not None:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(descriptor, fcntl.LOCK_EX)
        # Another writer may have found it between its creation and the lock, and removed it.
        if path.exists():
            return path, descriptor
        os.close(descriptor)


@contextmanager
def _if_dead(path: Path) -> Iterator[bool]:
    """Whether no writer holds the lock of a temporary; it stays locked inside. A missing one is dead."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError as error:
        yield isinstance(error, FileNotFoundError)
        return
    try:
        yield locked(descriptor)
    finally:
        os.close(descriptor)
