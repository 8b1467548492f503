"""What a server keeps between requests: stored responses and conversations, in one SQLite file.

What was not used for the longest time is removed first.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from coterie.config import CoterieError
from coterie.hosting.database import Database, Keeper, StateError, object_of, text_of
from coterie.hosting.settings import ServeSettings

__all__ = ["FILE", "Entry", "MissingEntry", "StateError", "StateFile", "StateStore"]
Item = Mapping[str, Any]
FILE = "state-1.sqlite"  # the number is that of the tables
_AT_ONCE = 16  # entries removed before the size is looked at again
_TICK = 1e-6  # seconds between two uses
_NO_END = 2**62
_TABLES = """
CREATE TABLE IF NOT EXISTS entries(
    number INTEGER PRIMARY KEY, owner TEXT NOT NULL, id TEXT NOT NULL, kind TEXT NOT NULL,
    parent TEXT, upto INTEGER, used REAL NOT NULL, UNIQUE(owner, id));
CREATE INDEX IF NOT EXISTS entries_by_use ON entries(used, number);
CREATE TABLE IF NOT EXISTS bodies(
    entry INTEGER PRIMARY KEY REFERENCES entries(number) ON DELETE CASCADE, data TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS items(
    position INTEGER PRIMARY KEY AUTOINCREMENT, entry INTEGER NOT NULL
    REFERENCES entries(number) ON DELETE CASCADE, id TEXT NOT NULL, data TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS items_by_entry ON items(entry, position);
CREATE INDEX IF NOT EXISTS items_by_id ON items(id);
"""
# An entry (:id of :owner) and all that it continues, the oldest first. `below`: see `Entry.upto`.
_CHAIN = """
WITH RECURSIVE chain(number, parent, upto, below, depth) AS (
    SELECT number, parent, upto, NULL, 0 FROM entries WHERE owner = :owner AND id = :id
    UNION ALL
    SELECT e.number, e.parent, e.upto, c.upto, c.depth + 1 FROM chain c
    JOIN entries e ON e.owner = :owner AND e.id = c.parent)
SELECT number, parent, below FROM chain ORDER BY depth DESC
"""


class MissingEntry(CoterieError):
    """An entry does not exist, or belongs to another owner. `id`: its id."""

    def __init__(self, id: str) -> None:
        super().__init__(f"nothing with the id '{id[:80]}' is stored")
        self.id = id


@dataclass(frozen=True)
class Entry:
    """A stored object with its items.

    `kind`: `response` or `conversation`. `parent`: the id of the entry that it continues, "" for none; of a
    parent that grows, only the items at positions below `upto` belong to what it continues.
    """

    id: str
    kind: str
    data: Mapping[str, Any]
    items: Sequence[Item] = ()
    parent: str = ""
    upto: int | None = None


@dataclass
class StateFile(Database):
    """The file and its limits: bytes in use, and seconds without use. For one thread at a time."""

    tables, what = _TABLES, "responses"
    most_bytes: int
    most_seconds: float
    clock: Callable[[], float] = time.time

    def put(self, owner: str, entry: Entry) -> None:
        """Store a new entry, and remove old ones where the limits ask for it.

        Errors: `StateError`, also when the entry with all it continues exceeds the size; `MissingEntry` when
        its parent is gone.
        """

        def work(db: sqlite3.Connection) -> None:
            values = (owner, entry.id, entry.kind, entry.parent or None, entry.upto)
            query = "INSERT INTO entries(owner, id, kind, parent, upto, used) VALUES (?, ?, ?, ?, ?, 0)"
            number = db.execute(query, values).lastrowid
            db.execute("INSERT INTO bodies(entry, data) VALUES (?, ?)", (number, text_of(entry.data)))
            _add_items(db, number, entry.items)
            self._keep(db, owner, entry.id)

        self.write(work)

    def append(self, owner: str, id: str, items: Sequence[Item]) -> None:
        """Add items to an entry. Errors: as `put`."""

        def work(db: sqlite3.Connection) -> None:
            _add_items(db, _number(db, owner, id), items)
            self._keep(db, owner, id)

        self.write(work)

    def replace(self, owner: str, id: str, data: Mapping[str, Any]) -> None:
        """Give an entry other data. Errors: as `put`."""

        def work(db: sqlite3.Connection) -> None:
            db.execute("UPDATE bodies SET data = ? WHERE entry = ?", (text_of(data), _number(db, owner, id)))
            self._keep(db, owner, id)

        self.write(work)

    def delete(self, owner: str, id: str, kind: str) -> bool:
        """Remove an entry and its items; whether there was one. Errors: `StateError`."""
        asked = (owner, id, kind)
        query = "DELETE FROM entries WHERE owner = ? AND id = ? AND kind = ?"
        return self.write(lambda db: db.execute(query, asked).rowcount > 0)

    def delete_item(self, owner: str, id: str, item: str) -> bool:
        """Remove one item of an entry; whether there was one. Errors: `StateError`, `MissingEntry`."""

        def work(db: sqlite3.Connection) -> bool:
            found = (_number(db, owner, id), item)
            return db.execute("DELETE FROM items WHERE entry = ? AND id = ?", found).rowcount > 0

        return self.write(work)

    def get(self, owner: str, id: str, kind: str) -> dict[str, Any]:
        """The data of an entry. Errors: `StateError`, `MissingEntry`."""

        def work(db: sqlite3.Connection) -> dict[str, Any]:
            query = "SELECT data FROM bodies WHERE entry = ?"
            return object_of(db.execute(query, (_number(db, owner, id, kind),)).fetchone()[0])

        return self.run(work)

    def items(self, owner: str, id: str) -> list[dict[str, Any]]:
        """The items of an entry. Errors: `StateError`, `MissingEntry`."""

        def work(db: sqlite3.Connection) -> list[dict[str, Any]]:
            query = "SELECT data FROM items WHERE entry = ? ORDER BY position"
            return [object_of(data) for (data,) in db.execute(query, (_number(db, owner, id),))]

        return self.run(work)

    def history(self, owner: str, id: str, kind: str) -> tuple[list[dict[str, Any]], int]:
        """The items of an entry and of all that it continues, the oldest first, and where the next one goes.

        Errors: `StateError`, `MissingEntry` also for an entry that it continues.
        """

        def work(db: sqlite3.Connection) -> tuple[list[dict[str, Any]], int]:
            _number(db, owner, id, kind)
            items, end = [], 0
            query = "SELECT position, data FROM items WHERE entry = ? AND position < ? ORDER BY position"
            for number, below in _chain(db, owner, id):
                for position, data in db.execute(query, (number, below)):
                    items.append(object_of(data))
                    end = position + 1
            return items, end

        return self.run(work)

    def find(self, owner: str, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Items by their ids, those that exist. Errors: `StateError`."""

        def work(db: sqlite3.Connection) -> dict[str, dict[str, Any]]:
            query = (
                "SELECT i.data FROM items i JOIN entries e ON e.number = i.entry "
                "WHERE i.id = ? AND e.owner = ? ORDER BY e.number DESC LIMIT 1"
            )
            rows = {id: db.execute(query, (id, owner)).fetchone() for id in ids}
            return {id: object_of(row[0]) for id, row in rows.items() if row is not None}

        return self.run(work)

    def _keep(self, db: sqlite3.Connection, owner: str, id: str) -> None:
        """Mark an entry and all it continues as just used, then remove what exceeds the limits."""
        own = [number for number, _ in _chain(db, owner, id)]
        last = db.execute("SELECT max(used) FROM entries").fetchone()[0]
        now = max(self.clock(), last + _TICK)  # the clock may go back
        db.executemany("UPDATE entries SET used = ? WHERE number = ?", [(now, number) for number in own])
        db.execute("DELETE FROM entries WHERE used < ?", (now - self.most_seconds,))
        # What continues another entry was never used after it, so that it goes first.
        oldest = (
            "DELETE FROM entries WHERE number IN (SELECT number FROM entries WHERE used < ? "
            "ORDER BY used, number DESC LIMIT ?)"
        )
        while self._size(db) > self.most_bytes:
            if db.execute(oldest, (now, _AT_ONCE)).rowcount == 0:
                raise StateError("this conversation is larger than --store-mb allows")

    @staticmethod
    def _size(db: sqlite3.Connection) -> int:
        pages, free, size = (
            db.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_count", "freelist_count", "page_size")
        )
        return int((pages - free) * size)


class StateStore(Keeper[StateFile]):
    """The state of one server, in its own thread."""

    @staticmethod
    def of(settings: ServeSettings) -> StateStore:
        """The store that the settings describe; its file is opened when something is first kept or read."""
        path = settings.state_path / FILE
        return StateStore(StateFile(path, settings.store_mb * 2**20, settings.store_days * 86400))


def _number(db: sqlite3.Connection, owner: str, id: str, kind: str | None = None) -> int:
    query = "SELECT number FROM entries WHERE owner = ? AND id = ? AND kind = coalesce(?, kind)"
    row = db.execute(query, (owner, id, kind)).fetchone()
    if row is None:
        raise MissingEntry(id)
    return int(row[0])


def _chain(db: sqlite3.Connection, owner: str, id: str) -> list[tuple[int, int]]:
    """Numbers of an entry and of all it continues, the oldest first, with the end of their items."""
    rows = db.execute(_CHAIN, {"owner": owner, "id": id}).fetchall()
    if rows and rows[0][1] is not None:  # the oldest continues something that is gone
        raise MissingEntry(rows[0][1])
    return [(number, _NO_END if below is None else below) for number, _, below in rows]


def _add_items(db: sqlite3.Connection, number: int | None, items: Sequence[Item]) -> None:
    rows = [(number, item["id"], text_of(item)) for item in items]
    db.executemany("INSERT INTO items(entry, id, data) VALUES (?, ?, ?)", rows)
