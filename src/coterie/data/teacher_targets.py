"""What a teacher said about every token of some rows, kept on disk: built once, read by several students.

A directory holds `header.json`, which says whose answers these are, and shards of whole rows: NumPy arrays of
records that are mapped into memory. A shard's name ends with the beginning of its SHA-256, and it appears
under that name when it is complete, so a build that was killed goes on from what is there.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from coterie.config.distill import TargetKind
from coterie.config.errors import ConfigError, DataError
from coterie.config.files import read_json, write_json
from coterie.config.temporaries import remove_dead, replace_with, temporary
from coterie.data.progress import Ticker
from coterie.data.rows import Row

if TYPE_CHECKING:
    import numpy.typing as npt

_log = logging.getLogger("coterie")
OWN = "teacher_own"
# The streams of each kind, in the order of the arguments of its divergence (`train.distil`).
# `teacher_own`: log-probability of the target.
STREAMS: dict[TargetKind, tuple[str, ...]] = {
    "full": ("teacher_logps", OWN),
    "topk": ("teacher_ids", "teacher_logps", "teacher_tail", OWN),
    "sampled": ("teacher_ids", "teacher_entropy", OWN),
}
LEAST_LOG = -60000.0  # log-probabilities are kept in 16 bits, which end at 65504
_FORMAT = 1
_SHARD_BYTES = 8 << 20
_HEADER = "header.json"


@dataclass(frozen=True)
class TargetHeader:
    """Whose answers a cache holds, and in which form. `width`: kept tokens, draws, or the vocabulary.

    `teacher`: hash of the weights, or the server and its model. `data`: hash of all rows. `seed`: of draws.
    """

    tokenizer: str
    teacher: str
    data: str
    kind: TargetKind
    width: int
    vocab_size: int
    row_length: int
    temperature: float = 1.0
    seed: int = 0
    format: int = _FORMAT

    @property
    def record(self) -> np.dtype[Any]:
        """The type of one row's answers."""
        size, width = self.row_length, self.width
        ids: Any = ("teacher_ids", "<u2" if self.vocab_size <= 2**16 else "<u4", (size, width))
        logps: Any = ("teacher_logps", "<f2", (size, width))
        own: Any = (OWN, "<f2", (size,))
        fields: dict[TargetKind, list[Any]] = {
            "full": [logps],
            "topk": [ids, logps, ("teacher_tail", "<f2", (size,))],
            "sampled": [ids, ("teacher_entropy", "<f4", (size,))],
        }
        return np.dtype([("row", "<i4"), *fields[self.kind], own])

    def words(self) -> str:
        """What is kept of each token."""
        forms = {
            "full": f"{self.width:,} log-probabilities",
            "topk": f"the {self.width} likeliest tokens and the mass of all others",
            "sampled": f"{self.width} drawn tokens",
        }
        return forms[self.kind]


_WORDS = {
    "tokenizer": "tokenizer",
    "teacher": "teacher",
    "data": "data (other rows)",
    "kind": "targets.kind",
    "width": "number of tokens (targets.k or targets.draws)",
    "temperature": "temperature",
    "seed": "targets.seed",
}

Answers = Mapping[str, "npt.NDArray[Any]"]
"""A teacher's answers to one row by stream, (S, ...) each."""
Ask = Callable[[Sequence[tuple[int, Row]]], Iterable[Answers]]
"""Maps numbered rows to the answers to each, in their order."""


def rows_digest(rows: Iterable[Row]) -> str:
    """SHA-256 over all that training reads of the rows; the reference's answers follow from the model."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(repr(row.lengths).encode())
        streams = {name: values for name, values in row.streams.items() if name != "reference_logp"}
        for values in (row.ids, row.targets, row.weights, *(streams[name] for name in sorted(streams))):
            digest.update(values.tobytes())
    return digest.hexdigest()


class TargetCache:
    """The answers in `directory`, opened or begun.

    Errors: `ConfigError` for the answers of another teacher, tokenizer, or to other data; `DataError` for a
    damaged file.
    """

    def __init__(self, directory: str | Path, header: TargetHeader) -> None:
        self.directory, self.header = Path(directory), header
        self._places: dict[int, npt.NDArray[Any]] = {}
        self.directory.mkdir(parents=True, exist_ok=True)
        file = self.directory / _HEADER
        if file.is_file():
            _check_same(file, header)
        elif any(self.directory.iterdir()):
            raise ConfigError(f"{self.directory}: holds other files; give an empty directory as 'cache'")
        else:
            write_json(file, asdict(header))
        remove_dead(self.directory)
        for path in sorted(self.directory.glob("rows-*.npy")):
            self._take(path)

    def missing(self, rows: Iterable[int]) -> list[int]:
        """Those of the row numbers that have no answers yet, in ascending order."""
        return sorted(set(rows) - self._places.keys())

    @property
    def num_bytes(self) -> int:
        """Bytes of all answers that are there."""
        return len(self._places) * self.header.record.itemsize

    def build(self, rows: Sequence[Row], numbers: Iterable[int], ask: Ask) -> int:
        """Ask for what is missing of `numbers`, one shard at a time; returns how many rows were asked for.

        Errors: `DataError` where the disk has too little room; those of `ask`.
        """
        wanted = self.missing(numbers)
        if not wanted:
            return 0
        header = self.header
        size = len(wanted) * header.record.itemsize
        free = shutil.disk_usage(self.directory).free
        _log.info(
            "targets: %s of each of %s tokens: %.1f MB in %s (%.1f GB free)",
            *(header.words(), f"{len(wanted) * header.row_length:,}", size / 1e6, self.directory, free / 1e9),
        )
        if size > 0.95 * free:
            raise DataError(
                f"{self.directory}: the targets need {size / 1e9:.1f} GB and {free / 1e9:.1f} GB are free; "
                "give another 'cache', a smaller targets.k, or fewer tokens"
            )
        ticker, per_shard = Ticker("targets: rows"), max(1, _SHARD_BYTES // header.record.itemsize)
        for at in range(0, len(wanted), per_shard):
            part = wanted[at : at + per_shard]
            found = ask([(number, rows[number]) for number in part])
            records = np.zeros(len(part), header.record)
            for place, (number, answers) in enumerate(zip(part, found, strict=True)):
                records[place]["row"] = number
                for name in STREAMS[header.kind]:
                    records[place][name] = answers[name]
                ticker(at + place + 1, len(wanted))
            self._write(records)
        return len(wanted)

    def streams(self, number: int) -> dict[str, npt.NDArray[Any]]:
        """The streams of row `number`, ids as int32; none without answers."""
        found = self._places.get(number)
        if found is None:
            return {}
        return {
            name: found[name].astype(np.int32) if name == "teacher_ids" else np.asarray(found[name])
            for name in STREAMS[self.header.kind]
        }

    def _write(self, records: npt.NDArray[Any]) -> None:
        name = f"rows-{int(records['row'][0]):08d}-{_digest(records)}.npy"
        with temporary(self.directory / name) as part:
            with open(part, "wb") as file:
                np.lib.format.write_array(file, records, allow_pickle=False)
            replace_with(part, self.directory / name)
        self._take(self.directory / name)

    def _take(self, path: Path) -> None:
        try:
            records = np.lib.format.open_memmap(path, mode="r")
        except (OSError, ValueError) as error:
            raise DataError(
                f"{path}: cannot be read ({error}); remove it, and its rows are asked again"
            ) from None
        if records.dtype != self.header.record or _digest(records) != path.stem.rpartition("-")[2]:
            raise DataError(f"{path}: is damaged; remove it, and its rows are asked again")
        self._places |= {int(record["row"]): record for record in records}


class TaughtRows(Sequence[Row]):
    """Rows with a cache's answers as streams. The objective refuses a row without answers."""

    def __init__(self, rows: Sequence[Row], cache: TargetCache) -> None:
        self.rows, self.cache = rows, cache

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Row:  # type: ignore[override]  # rows are taken one at a time
        row = self.rows[index]
        return replace(row, streams={**row.streams, **self.cache.streams(index)})

    def __iter__(self) -> Iterator[Row]:
        return (self[index] for index in range(len(self)))


def _digest(records: npt.NDArray[Any]) -> str:
    return hashlib.sha256(records.tobytes()).hexdigest()[:16]


def _check_same(file: Path, header: TargetHeader) -> None:
    before, now = read_json(file, error=DataError), asdict(header)
    for key, value in now.items():
        if before.get(key) != value:
            what, was = _WORDS.get(key, key), str(before.get(key))[:40]
            raise ConfigError(
                f"{file.parent}: holds targets of another {what} ({was}, now {str(value)[:40]}); give "
                "another 'cache', or remove this one"
            )
