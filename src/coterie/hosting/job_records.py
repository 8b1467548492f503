"""Files, batches and tuning jobs of a server, as records with lines, in one SQLite file.

It is not the file of conversations: what is there is removed when it was not used for long, and this is not.
"""

from __future__ import annotations

import secrets
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from coterie.hosting.database import Database, object_of, text_of
from coterie.hosting.errors import ApiError

FILE = "jobs-1.sqlite"  # the number is that of the tables
KINDS = {"file": "file", "batch": "batch", "tuning": "fine-tuning job"}
_TABLES = """
CREATE TABLE IF NOT EXISTS records(
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE NOT NULL, owner TEXT NOT NULL,
    kind TEXT NOT NULL, data TEXT NOT NULL, own TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS records_by_owner ON records(kind, owner, number);
CREATE TABLE IF NOT EXISTS lines(
    record INTEGER NOT NULL REFERENCES records(number) ON DELETE CASCADE,
    position INTEGER NOT NULL, kind TEXT NOT NULL, data TEXT NOT NULL, PRIMARY KEY(record, position));
"""
_COLUMNS = "SELECT id, owner, kind, data, own FROM records"


@dataclass
class JobRecord:
    """A stored object. `kind`: of `KINDS`. `data`: as clients see it. `own`: what only the server knows."""

    id: str
    owner: str
    kind: str
    data: dict[str, Any]
    own: dict[str, Any] = field(default_factory=dict)


class JobFile(Database):
    """The records. Errors of its methods: `StateError`, and `ApiError` 404 for an id of another owner."""

    tables, what = _TABLES, "files and jobs"

    def add(self, record: JobRecord) -> None:
        """Store a new record."""
        query = "INSERT INTO records(id, owner, kind, data, own) VALUES (?, ?, ?, ?, ?)"
        values = (record.id, record.owner, record.kind, text_of(record.data), text_of(record.own))
        self.write(lambda db: db.execute(query, values))

    def get(self, owner: str, kind: str, id: str) -> JobRecord:
        """One record of an owner."""
        return self.run(lambda db: _get(db, owner, kind, id))

    def all(self, kind: str, owner: str | None = None) -> list[JobRecord]:
        """The records of a kind, of one owner or of all, the oldest first."""
        query = f"{_COLUMNS} WHERE kind = ? AND owner = coalesce(?, owner) ORDER BY number"
        return self.run(lambda db: [_record(row) for row in db.execute(query, (kind, owner))])

    def change(self, id: str, change: Callable[[JobRecord], None]) -> JobRecord | None:
        """Change a record in one step; None when it is gone."""
        return self.write(lambda db: _change(db, id, change))

    def delete(self, owner: str, kind: str, id: str) -> None:
        """Remove a record and its lines."""

        def work(db: sqlite3.Connection) -> None:
            _get(db, owner, kind, id)
            db.execute("DELETE FROM records WHERE id = ?", (id,))

        self.write(work)

    def num_bytes(self) -> int:
        """Bytes of all files."""
        query = "SELECT coalesce(sum(json_extract(data, '$.bytes')), 0) FROM records WHERE kind = 'file'"
        return int(self.run(lambda db: db.execute(query).fetchone()[0]))

    def add_line(
        self,
        id: str,
        kind: str,
        data: Mapping[str, Any],
        position: int | None = None,
        change: Callable[[JobRecord], None] = lambda record: None,
    ) -> JobRecord | None:
        """Add a line, by default after the last, and change its record, both in one step.

        A line whose position is taken changes nothing. None when the record is gone.
        """

        def work(db: sqlite3.Connection) -> JobRecord | None:
            end = "(SELECT coalesce(max(position), -1) + 1 FROM lines WHERE record = number)"
            query = (
                f"INSERT OR IGNORE INTO lines(record, position, kind, data) "
                f"SELECT number, coalesce(?, {end}), ?, ? FROM records WHERE id = ?"
            )
            added = db.execute(query, (position, kind, text_of(data), id)).rowcount
            return _change(db, id, change if added > 0 else lambda record: None)

        return self.write(work)

    def positions(self, id: str) -> set[int]:
        """The positions of the lines of a record."""
        query = "SELECT position FROM lines JOIN records ON number = record WHERE id = ?"
        return self.run(lambda db: {position for (position,) in db.execute(query, (id,))})

    def lines(
        self, id: str, kinds: Sequence[str], after: int = -1, most: int = 1000
    ) -> list[tuple[int, dict[str, Any]]]:
        """Positions and data of some lines of a record, in order, those after a position."""
        marks = ", ".join("?" * len(kinds))
        query = (
            "SELECT position, lines.data FROM lines JOIN records ON number = record "
            f"WHERE id = ? AND position > ? AND lines.kind IN ({marks}) ORDER BY position LIMIT ?"
        )
        values = (id, after, *kinds, most)

        def work(db: sqlite3.Connection) -> list[tuple[int, dict[str, Any]]]:
            return [(position, object_of(text)) for position, text in db.execute(query, values)]

        return self.run(work)

    def drop_lines(self, id: str) -> None:
        """Remove the lines of a record."""
        query = "DELETE FROM lines WHERE record = (SELECT number FROM records WHERE id = ?)"
        self.write(lambda db: db.execute(query, (id,)))


def new_id(prefix: str) -> str:
    """A name that nobody can guess."""
    return prefix + secrets.token_hex(12)


def now() -> int:
    """The time as the API writes it."""
    return int(time.time())


def _record(row: tuple[str, str, str, str, str]) -> JobRecord:
    return JobRecord(*row[:3], object_of(row[3]), object_of(row[4]))


def _get(db: sqlite3.Connection, owner: str, kind: str, id: str) -> JobRecord:
    query = f"{_COLUMNS} WHERE id = ? AND owner = ? AND kind = ?"
    row = db.execute(query, (id, owner, kind)).fetchone()
    if row is None:
        raise ApiError(404, f"there is no {KINDS[kind]} with the id '{id[:80]}'", f"{kind}_not_found")
    return _record(row)


def _change(db: sqlite3.Connection, id: str, change: Callable[[JobRecord], None]) -> JobRecord | None:
    row = db.execute(f"{_COLUMNS} WHERE id = ?", (id,)).fetchone()
    if row is None:
        return None
    record = _record(row)
    change(record)
    values = (text_of(record.data), text_of(record.own), id)
    db.execute("UPDATE records SET data = ?, own = ? WHERE id = ?", values)
    return record
