"""The index of one stage of training: a file that says which fingerprints its text has.

The file is in the safetensors format, so others can read it: `__metadata__` holds the header (`IndexHeader`)
as JSON under "coterie", and the tensors are

    exact    fingerprints (f,) U64 sorted      pieces (p,) U64 sorted
    sketch   fingerprints (b,) U8, a Bloom filter      pieces (b,) U8, a Bloom filter
    both     frequent (q,) U64 sorted: fingerprints of at least `FREQUENT` documents, with
             frequent_documents (q,) U32, and of the source where its share of the documents is largest
             source_documents (q,) U32 and source_share (q,) F32
    exact    documents (d,) U64: SHA-256 of each text, its first bytes, in the order of packing;
             document_tokens, document_source, document_number (d,) U32
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from coterie.config.base import Settings, suggest
from coterie.config.errors import ConfigError, DataError
from coterie.config.files import file_sha256
from coterie.config.json_text import JsonError, parse_json_object
from coterie.config.temporaries import replace_with, temporary
from coterie.contamination.fingerprints import GRAM, WINDOW
from coterie.contamination.sketch import Bloom, SketchKey, in_sorted
from coterie.contamination.units import NORMALISATION

if TYPE_CHECKING:
    import numpy.typing as npt

FORMAT = 1
FREQUENT = 8  # documents: of fingerprints below, an index does not keep how many documents have them
PIECE_RATE = 1e-7  # of false finds among short questions, each of which is asked for once
Stage = Literal["pretrain", "continue", "tune", "reinforce", "reject", "distill"]
_STAGES: dict[str, Stage] = {
    "pretrain": "pretrain",
    "continue": "continue",
    "tune": "tune",
    "reinforce": "reinforce",
    "reject": "reject",
    "distill": "distill",
}
_TYPES = {"U64": "<u8", "U32": "<u4", "F32": "<f4", "U8": "|u1"}
_NAMES = {np.dtype(code).str: name for name, code in _TYPES.items()}


def as_stage(name: str) -> Stage:
    """The stage of a name. Errors: `ConfigError` for an unknown one."""
    if name not in _STAGES:
        raise ConfigError(f"stage '{name}': choose one of {', '.join(_STAGES)}{suggest(name, _STAGES)}")
    return _STAGES[name]


class IndexedSource(Settings):
    """What was indexed of one source (a kind of text)."""

    documents: int = Field(ge=0)
    tokens: int = Field(ge=0)


class IndexHeader(Settings):
    """What an index says of itself.

    `documents`, `tokens`: as packed, so a document that is seen twice counts twice. `distinct`: different
    documents. `units`: of their text. `order`: SHA-256 over the documents in the order of packing. `data`:
    SHA-256 of what names the packed data (None: of text that was not packed). `files`: where documents were
    read. `rate`: of false finds in a sketch. `key`: recognises the key of a keyed index.
    """

    format: int
    normalisation: str
    gram: int
    window: int
    kind: Literal["exact", "sketch"]
    stage: Stage
    documents: int = Field(ge=0)
    distinct: int = Field(ge=0)
    tokens: int = Field(ge=0)
    units: int = Field(ge=0)
    fingerprints: int = Field(ge=0)
    pieces: int = Field(ge=0)
    order: str
    data: str | None = None
    sources: dict[str, IndexedSource] = Field(default_factory=dict)
    files: list[str] = Field(default_factory=list)
    rate: float = Field(0.0, ge=0, lt=1)
    hashes: int = Field(0, ge=0)
    piece_hashes: int = Field(0, ge=0)
    key: str | None = None


@dataclass(frozen=True)
class ContaminationIndex:
    """An opened index. `key`: of a keyed one. `path`: None for one that was not written yet."""

    header: IndexHeader
    arrays: Mapping[str, npt.NDArray[Any]]
    key: SketchKey | None = None
    path: Path | None = None

    @staticmethod
    def open(path: str | Path, key: SketchKey | None = None) -> ContaminationIndex:
        """Read an index, checked against what it says of itself.

        Errors: `DataError`, one line, for a file that is cut, damaged, of other rules or another version, and
        for a key that is missing or another one.
        """
        path = Path(path)
        header, arrays = _read(path)
        if (header.key is None) != (key is None) or (key is not None and key.check != header.key):
            what = "needs another key" if key and header.key else "has no key" if key else "needs a key"
            raise DataError(
                f"{path}: {what}; {'leave --key-file out' if not header.key else 'give --key-file'}"
            )
        return ContaminationIndex(header, arrays, key, path)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the file."""
        if self.path is None:
            raise ValueError("an index has a digest once it is written")
        return file_sha256(self.path)

    def write(self, path: str | Path) -> None:
        """Write the index, whole or not at all. Errors: `OSError` when the system refuses."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with temporary(path) as part:
            _write(part, self.header, self.arrays)
            replace_with(part, path)

    def has(self, grams: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        """Which grams are fingerprints of the stage's text."""
        return self._found("fingerprints", self.header.hashes, grams)

    def has_piece(self, pieces: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        """Which hashes of short questions, or of the meeting of question and answer, its text has."""
        return self._found("pieces", self.header.piece_hashes, pieces)

    def _found(self, name: str, hashes: int, asked: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        values = asked if self.key is None else self.key.applied(asked)
        array = self.arrays[name]
        return in_sorted(array, values) if self.header.kind == "exact" else Bloom(array, hashes).has(values)

    def frequency(self, grams: npt.NDArray[np.uint64]) -> FoundFrequency:
        """In how many documents grams are fingerprints; 1 where the index did not count."""
        values = grams if self.key is None else self.key.applied(grams)
        frequent = self.arrays["frequent"]
        known = in_sorted(frequent, values)
        places = np.searchsorted(frequent, values[known])
        found = [np.ones(len(grams)), np.ones(len(grams)), np.zeros(len(grams))]
        names = ("frequent_documents", "source_documents", "source_share")
        for column, name in zip(found, names, strict=True):
            column[known] = self.arrays[name][places]
        return FoundFrequency(*found)

    def sketch(self, rate: float, key: SketchKey | None = None) -> ContaminationIndex:
        """The form that can be shared: Bloom filters, no list of documents, no names of files.

        `rate`: of false finds among fingerprints. `key`: only its holders can ask.
        Errors: `DataError` for an index that is not exact, or is keyed already.
        """
        if self.header.kind != "exact" or self.key is not None:
            raise DataError(f"{self.path}: is a sketch or keyed already; export from the exact index")
        if not 0 < rate < 1:
            raise DataError(f"rate {rate}: is not a probability between 0 and 1")

        def hidden(name: str) -> npt.NDArray[np.uint64]:
            return self.arrays[name] if key is None else key.applied(self.arrays[name])

        main, pieces = Bloom.of(hidden("fingerprints"), rate), Bloom.of(hidden("pieces"), PIECE_RATE)
        frequent = hidden("frequent")
        order = np.argsort(frequent)
        columns = {
            name: self.arrays[name][order]
            for name in ("frequent_documents", "source_documents", "source_share")
        }
        arrays: dict[str, npt.NDArray[Any]] = {
            "fingerprints": main.bits,
            "pieces": pieces.bits,
            "frequent": frequent[order],
            **columns,
        }
        changes = {
            "kind": "sketch",
            "rate": rate,
            "hashes": main.hashes,
            "piece_hashes": pieces.hashes,
            "key": None if key is None else key.check,
            "sources": {},
            "files": [],
        }
        return ContaminationIndex(self.header.model_copy(update=changes), arrays, key)


@dataclass(frozen=True)
class FoundFrequency:
    """Per gram: documents that have it, those of one source, and their share of that source's documents."""

    documents: npt.NDArray[np.float64]
    source_documents: npt.NDArray[np.float64]
    source_share: npt.NDArray[np.float64]


def _write(path: Path, header: IndexHeader, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """The safetensors format: the size of the header (8 bytes), the header, the bytes of the arrays."""
    about: dict[str, Any] = {"__metadata__": {"coterie": json.dumps(header.to_dict(), sort_keys=True)}}
    # Larger types first, so that each array begins at a multiple of its item's size.
    named = sorted(arrays.items(), key=lambda item: (-item[1].dtype.itemsize, item[0]))
    at = 0
    for name, array in named:
        about[name] = {
            "dtype": _NAMES[array.dtype.newbyteorder("<").str],
            "shape": list(array.shape),
            "data_offsets": [at, at := at + array.nbytes],
        }
    text = json.dumps(about).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, array in named:
            file.write(np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).data)


def _read(path: Path) -> tuple[IndexHeader, dict[str, npt.NDArray[Any]]]:
    """Header and arrays, which stay on disk until they are read."""
    if not path.is_file():
        raise DataError(f"{path}: no such index; build one with `coterie index build`")
    header, tensors, start = _opened(path)
    arrays = {}
    for name, (code, length, first) in tensors.items():
        arrays[name] = np.zeros(0, dtype=_TYPES[code])
        if length:
            arrays[name] = np.memmap(path, _TYPES[code], "r", start + first, (length,))
    wanted = {"fingerprints", "pieces", "frequent", "frequent_documents", "source_documents", "source_share"}
    counts = {"fingerprints": header.fingerprints, "pieces": header.pieces}
    if not wanted <= arrays.keys() or (
        header.kind == "exact" and any(len(arrays[name]) != count for name, count in counts.items())
    ):
        raise DataError(f"{path}: its tables and its header disagree; build the index again")
    return header, arrays


def _opened(path: Path) -> tuple[IndexHeader, dict[str, tuple[str, int, int]], int]:
    """(header, per tensor its type, length and offset, where the data begins)."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(size, 2**26):
            raise DataError(f"{path}: is not an index of coterie; build one with `coterie index build`")
        raw = file.read(length)
    try:
        about = parse_json_object(raw)
        metadata = about.pop("__metadata__")
        stated = parse_json_object(metadata["coterie"])
    except (JsonError, KeyError, TypeError, AttributeError):
        raise DataError(
            f"{path}: is not an index of coterie, or its header is damaged; build it again"
        ) from None
    ours = {"format": FORMAT, "normalisation": NORMALISATION, "gram": GRAM, "window": WINDOW}
    for name, value in ours.items():
        if stated.get(name) != value:
            raise DataError(
                f"{path}: was built with {name} {stated.get(name)!r}, this version reads {value!r}; build it "
                "again, or use that version of coterie"
            )
    try:
        header = IndexHeader.from_dict(stated, str(path))
    except ConfigError as error:
        raise DataError(f"{error}; build the index again") from None
    tensors, end = {}, 0
    for name, entry in about.items():
        try:
            (first, last), (count,), code = entry["data_offsets"], entry["shape"], entry["dtype"]
            whole = last - first == count * np.dtype(_TYPES[code]).itemsize and first == end and count >= 0
        except (KeyError, TypeError, ValueError):
            whole = False
        if not whole:
            raise DataError(f"{path}: its table of arrays is damaged; build the index again")
        tensors[name], end = (code, count, first), last
    if 8 + length + end != size:
        raise DataError(
            f"{path}: holds {size:,} bytes instead of {8 + length + end:,}, so it was cut or changed; "
            "copy or build it again"
        )
    return header, tensors, 8 + length


def false_finds_bound(tries: int, rate: float, found: int) -> float:
    """Probability that `found` or more of `tries` fingerprints are found in a sketch by chance (binomial)."""
    if found <= 0 or rate <= 0:
        return 1.0 if found <= 0 else 0.0
    return math.fsum(
        math.comb(tries, k) * rate**k * (1 - rate) ** (tries - k)
        for k in range(found, min(tries, found + 8) + 1)
    )
