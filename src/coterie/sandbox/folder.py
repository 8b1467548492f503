"""One folder that a model may read and write. No path leads out of it, and no link is followed."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from coterie.config.errors import CoterieError

_WAY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class FolderError(CoterieError):
    """A path leads out of the folder, or is not a file or folder of the kind that was asked for."""


class Folder:
    """The folder `root`. `longest`: most bytes of a file read or written, and most names in a listing.

    Every part of a path is opened relative to the part before it, without following links. So a link that is
    made, or a folder that is moved, between a check and its use leads nowhere.
    """

    def __init__(self, root: Path, longest: int = 2**20) -> None:
        if not root.is_dir():
            raise FolderError(f"{root}: not a folder")
        self.root = root.resolve()
        self._longest = longest

    def names(self, path: str) -> list[str]:
        """Sorted names in a folder; folders end in a slash. Errors: `FolderError`."""
        with self._opened(path, self._parts(path)) as here, os.scandir(here) as entries:
            names = [entry.name + "/" * entry.is_dir(follow_symlinks=False) for entry in entries]
        if len(names) > self._longest:
            raise FolderError(f"{path}: more than {self._longest} names")
        return sorted(names)

    def read(self, path: str) -> str:
        """The text of a file.

        Errors: `FolderError`, also for a file that is not regular, too long, or not UTF-8.
        """
        *parents, name = self._parts(path, file=True)
        with self._opened(path, parents) as here, self._refused(path):
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            with os.fdopen(os.open(name, flags, dir_fd=here), "rb") as file:
                found = os.fstat(file.fileno())
                if not stat.S_ISREG(found.st_mode):
                    raise FolderError(f"{path}: not a regular file")
                data = file.read(self._longest + 1)
        if len(data) > self._longest:
            raise FolderError(f"{path}: longer than {self._longest} bytes")
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            raise FolderError(f"{path}: not UTF-8 text") from None

    def write(self, path: str, text: str) -> int:
        """Write a file by rename and make missing folders; returns its bytes. Errors: `FolderError`."""
        *parents, name = self._parts(path, file=True)
        data = text.encode("utf-8", "surrogatepass")
        if len(data) > self._longest:
            raise FolderError(f"{path}: longer than {self._longest} bytes")
        temporary = f".coterie-{os.getpid()}-{os.urandom(4).hex()}"
        with self._opened(path, parents, make=True) as here, self._refused(path):
            mode = 0o644
            with contextlib.suppress(FileNotFoundError):
                before = os.stat(name, dir_fd=here, follow_symlinks=False).st_mode
                if not stat.S_ISREG(before):
                    raise FolderError(f"{path}: is not a regular file, so it is not replaced")
                mode = stat.S_IMODE(before) & 0o777
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            try:
                with os.fdopen(os.open(temporary, flags, mode, dir_fd=here), "wb") as file:
                    file.write(data)
                os.rename(temporary, name, src_dir_fd=here, dst_dir_fd=here)
            except OSError:
                with contextlib.suppress(OSError):
                    os.unlink(temporary, dir_fd=here)
                raise
        return len(data)

    def _parts(self, path: str, file: bool = False) -> list[str]:
        parts = [part for part in path.split("/") if part not in ("", ".")]
        if path.startswith("/") or ".." in parts or "\0" in path:
            raise FolderError(f"{path!r}: give a path inside the working folder, without '..'")
        if file and not parts:
            raise FolderError(f"{path!r}: names no file")
        return parts

    @contextlib.contextmanager
    def _opened(self, path: str, parts: list[str], make: bool = False) -> Iterator[int]:
        """A descriptor of the folder at the end of `parts`, closed with the block."""
        with self._refused(path):
            here = os.open(self.root, _WAY)
        try:
            for part in parts:
                with self._refused(path):
                    if make:
                        with contextlib.suppress(FileExistsError):
                            os.mkdir(part, dir_fd=here)
                    below = os.open(part, _WAY, dir_fd=here)
                os.close(here)
                here = below
            yield here
        finally:
            os.close(here)

    @contextlib.contextmanager
    def _refused(self, path: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            # The errors that the kernel gives for a link that it must not follow.
            links = (errno.ELOOP, errno.ENOTDIR)
            reason = f"{error.strerror} (links are not followed)" if error.errno in links else error.strerror
            raise FolderError(f"{path}: {reason}") from None
