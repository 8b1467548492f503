"""Item records on disk, appended as they come, so that a stopped evaluation goes on where it was.

The file of a task in progress is `TASK.part.jsonl`; it gets its name when the task is finished. `TASK.key`
holds the digest of all that a record depends on: the model, what runs it, the task, how it is asked. Records
behind another key are never read.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from coterie.config.errors import ConfigError, DataError
from coterie.config.files import write_text
from coterie.evidence.canonical import canonical, digest_of, merkle_root
from coterie.results.evaluation import ItemRecord, SamplesFile

Wanted = tuple[str, str, int | None]  # digests of item and prompt, and the seed


class KeptRecords:
    """The records of one task in `folder`. `key`: what they depend on; None: they are never used again."""

    def __init__(self, folder: Path, task: str, key: Any) -> None:
        self.path = folder / f"{task}.jsonl"
        self._part = folder / f"{task}.part.jsonl"
        self._key = folder / f"{task}.key"
        self._digest = None if key is None else digest_of(key)

    def begin(self, wanted: Sequence[Wanted]) -> list[ItemRecord]:
        """The records that are there for the first of the wanted replies; the file is left with these.

        Another key, or a record of another item or prompt, ends what is used.
        """
        self._part.parent.mkdir(parents=True, exist_ok=True)
        found: list[ItemRecord] = []
        if self._digest is not None and _text(self._key).strip() == self._digest:
            source = self._part if self._part.exists() else self.path
            for line, place in zip(_text(source).splitlines(), wanted, strict=False):
                record = _record(line)
                if record is None or (record.digest, record.prompt, record.seed) != place:
                    break
                found.append(record)
        write_text(self._key, f"{self._digest or ''}\n")
        write_text(self._part, "".join(map(line_of, found)))
        return found

    def add(self, records: Sequence[ItemRecord]) -> None:
        """Append records."""
        with self._part.open("a", encoding="utf-8") as file:
            file.write("".join(map(line_of, records)))

    def finish(self, records: Sequence[ItemRecord]) -> SamplesFile:
        """Give the file its name. Errors: `DataError` where it does not hold these records."""
        text = "".join(map(line_of, records))
        if _text(self._part) != text:
            raise DataError(f"{self._part}: was changed while the task ran; remove it and run again")
        self._part.replace(self.path)
        return samples_file(self.path, records)


def samples_file(path: Path, records: Sequence[ItemRecord]) -> SamplesFile:
    """The entry of a report for a file of records."""
    where = f"{path.parent.name}/{path.name}"
    return SamplesFile(path=where, rows=len(records), merkle_root=records_root(records))


def records_root(records: Sequence[ItemRecord]) -> str:
    """Root of the Merkle tree over the records' lines, without their line ends."""
    return merkle_root(canonical(record) for record in records)


def line_of(record: ItemRecord) -> str:
    """The line of a record: its canonical form."""
    return f"{canonical(record).decode()}\n"


def read_records(path: Path) -> list[ItemRecord]:
    """The records of a finished file. Errors: `DataError`, one line that names the file and its line."""
    if not path.is_file():
        raise DataError(f"{path}: there is no such file; run the evaluation again")
    records = [_record(line) for line in _text(path).splitlines()]
    if None in records:
        where = records.index(None) + 1
        raise DataError(f"{path}: line {where} is not the record of an item; it was cut or changed")
    return [record for record in records if record is not None]


def _record(line: str) -> ItemRecord | None:
    try:
        return ItemRecord.from_dict(json.loads(line))
    except (ValueError, ConfigError):
        return None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""
