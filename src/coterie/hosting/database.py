"""An SQLite file of a server: opened when it is needed, set aside when it is damaged, used by one thread.

Several servers may share the file. A change is whole or not there (transactions, write-ahead log), so a
killed server loses nothing that it has answered.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from coterie.config import CoterieError

T = TypeVar("T")
_WAIT = 5.0  # seconds for another process that is writing
_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_IOERR_SHORT_READ)
_SETTINGS = (
    *("journal_mode = WAL", "synchronous = NORMAL", "foreign_keys = ON"),
    *("secure_delete = ON", "journal_size_limit = 4194304"),
)
log = logging.getLogger("coterie.serve")


class StateError(CoterieError):
    """The state cannot be read or written: a full disk, a folder without permission."""


@dataclass
class Database:
    """A file with tables. `what` it keeps, for people. For one thread at a time."""

    path: Path
    tables: ClassVar[str] = ""
    what: ClassVar[str] = ""
    _db: sqlite3.Connection | None = field(default=None, init=False)
    _seen: tuple[int, int] | None = field(default=None, init=False)  # device and inode of the open file

    def close(self) -> None:
        """Close the file."""
        if self._db is not None:
            self._db.close()
            self._db = None

    def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """As `run`, all of it or nothing."""

        def whole(db: sqlite3.Connection) -> T:
            with _transaction(db):
                return work(db)

        return self.run(whole)

    def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """The result of `work`; a damaged file is set aside once. Errors: `StateError`, those of `work`."""
        try:
            try:
                return work(self._open())
            except sqlite3.DatabaseError as error:
                if not _is_damage(error):
                    raise
                self._set_aside()
                return work(self._open())
        except (sqlite3.Error, OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise StateError(f"{self.path}: {reason}") from None

    def _open(self) -> sqlite3.Connection:
        """The connection, to the file that is at the path now."""
        with suppress(FileNotFoundError):
            there = os.stat(self.path)
            if self._db is not None and self._seen == (there.st_dev, there.st_ino):
                return self._db
        self.close()
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))  # nobody else reads conversations
        db = sqlite3.connect(self.path, timeout=_WAIT, isolation_level=None, check_same_thread=False)
        try:
            _set_up(db, self.tables)
            there = os.stat(self.path)
        except BaseException:
            db.close()
            raise
        log.info("%s are kept in %s; --no-store keeps none", self.what, self.path)
        self._db, self._seen = db, (there.st_dev, there.st_ino)
        return db

    def _set_aside(self) -> None:
        """Rename a damaged file, unless another server has done so already."""
        self.close()
        try:
            if self._open().execute("PRAGMA quick_check(1)").fetchone()[0] == "ok":
                return
        except sqlite3.DatabaseError as error:
            if not _is_damage(error):
                raise
        self.close()
        name = f"{self.path.name}.damaged-{time.strftime('%Y%m%d-%H%M%S')}"
        for ending in ("", "-wal", "-shm"):
            with suppress(FileNotFoundError):
                os.replace(f"{self.path}{ending}", self.path.with_name(name + ending))
        log.warning("%s is damaged: it is now called %s, and a new file begins", self.path, name)


D = TypeVar("D", bound=Database)


class Keeper(Generic[D]):
    """A `Database` in its own thread, away from the event loop."""

    def __init__(self, file: D) -> None:
        self._file = file
        self._pool = ThreadPoolExecutor(1, "coterie-state")
        self._failed = ""  # the last failure, until something works again

    async def do(self, work: Callable[[D], T]) -> T:
        """The result of `work` on the file. Errors: those of `work`."""
        try:
            result = await asyncio.wrap_future(self._pool.submit(work, self._file))
        except StateError as error:
            if str(error) != self._failed:
                log.warning("state: %s", error)
            self._failed = str(error)
            raise
        self._failed = ""
        return result

    def close(self) -> None:
        """End the thread after the running work, and close the file; a second call does nothing."""
        self._pool.shutdown(wait=True)
        self._file.close()


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    return getattr(error, "sqlite_errorcode", 0) in _DAMAGE


def _set_up(db: sqlite3.Connection, tables: str) -> None:
    """Settings and tables. SQLite does not wait by itself while two connections begin a new file."""
    end = time.monotonic() + _WAIT
    while True:
        try:
            for setting in _SETTINGS:
                db.execute(f"PRAGMA {setting}")
            db.executescript(tables)
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                raise
        time.sleep(0.01)


@contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def text_of(data: Mapping[str, Any]) -> str:
    """JSON for a column."""
    return json.dumps(data, ensure_ascii=False, separators=(",", ":"))


def object_of(text: str) -> dict[str, Any]:
    """The object of a column."""
    data: dict[str, Any] = json.loads(text)
    return data
