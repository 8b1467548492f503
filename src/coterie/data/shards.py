"""Token shards on disk: Megatron's `.bin`/`.idx` pair, and two files with what that format cannot hold.

`NAME.bin`: the tokens of all documents, concatenated. `NAME.idx`: lengths and byte offsets (Megatron-Core,
`indexed_dataset.py`). `NAME.documents.npy`: slice number and UTF-8 bytes of each document. `shard.json`:
slice names, the tokenizer's hash, and size and SHA-256 of every file.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from coterie.config.base import Settings
from coterie.config.errors import ConfigError, DataError
from coterie.config.files import file_sha256, read_json, write_json
from coterie.data.documents import Document, document_ids
from coterie.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    import numpy.typing as npt

_MAGIC = b"MMIDIDX\x00\x00"
_HEADER = struct.Struct("<9sQBQQ")  # magic, version, dtype code, sequences, document marks
# Megatron knows no uint32; its int32 has the same bits for every id below 2^31.
_CODES: dict[int, str] = {8: "<u2", 4: "<i4"}
_FORMAT = "coterie-shards-2"  # 1: every document began with the eos, whatever the tokenizer puts before texts
_TOKENS_PER_SHARD = 250_000_000
_BATCH = 1024


class _ShardFile(Settings):
    bytes: int
    sha256: str


class _Sidecar(Settings):
    """The content of `shard.json`."""

    format: Literal["coterie-shards-2"]  # `_FORMAT`
    tokenizer_sha256: str
    eos_id: int
    dtype: str
    slices: list[str]
    shards: list[str]
    files: dict[str, _ShardFile]


@dataclass(frozen=True)
class Shards:
    """Memory-mapped shards of one directory, read as one list of documents and one stream of tokens."""

    directory: Path
    tokenizer_sha256: str
    eos_id: int  # what begins a document and so ends the one before it
    slice_names: tuple[str, ...]
    tokens: tuple[npt.NDArray[Any], ...]  # per shard
    starts: npt.NDArray[np.int64]  # (documents + 1,) first token of each document in the whole stream
    slices: npt.NDArray[np.int32]  # (documents,) number in slice_names
    num_bytes: npt.NDArray[np.int32]  # (documents,) UTF-8 bytes of the text

    @property
    def num_tokens(self) -> int:
        """Tokens of all documents."""
        return int(self.starts[-1])

    @property
    def num_documents(self) -> int:
        """Documents of all shards."""
        return len(self.starts) - 1

    def read(self, begin: int, end: int) -> npt.NDArray[np.int32]:
        """Tokens [begin, end) of the stream, across shards, as int32."""
        if not 0 <= begin <= end <= self.num_tokens:
            raise DataError(
                f"{self.directory}: tokens {begin} to {end} asked for, it holds {self.num_tokens}"
            )
        parts, offset = [], 0
        for tokens in self.tokens:
            low, high = max(begin - offset, 0), min(end - offset, len(tokens))
            if low < high:
                parts.append(tokens[low:high])
            offset += len(tokens)
        return np.concatenate(parts).astype(np.int32) if parts else np.zeros(0, dtype=np.int32)

    def document(self, index: int) -> npt.NDArray[np.int32]:
        """Tokens of one document, its leading end-of-text included."""
        return self.read(int(self.starts[index]), int(self.starts[index + 1]))


def write_shards(
    documents: Iterable[Document],
    tokenizer: Tokenizer,
    directory: str | Path,
    tokens_per_shard: int = _TOKENS_PER_SHARD,
    seen: Callable[[Document, int], None] | None = None,
) -> Shards:
    """Encode documents in the given order and write them below `directory`.

    `shard.json` is written last and makes the directory readable. `seen`: called with every document that
    was written and the number of its tokens.
    Errors: `DataError` if a conversation cannot be rendered.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    width = np.dtype("<u2" if tokenizer.vocab_size <= 65536 else "<i4")
    names: dict[str, int] = {}
    files: dict[str, dict[str, Any]] = {}
    stream, number = iter(documents), 0
    batches = iter(lambda: list(islice(stream, _BATCH)), [])
    while _write_one(
        directory, f"shard-{number:05d}", batches, tokenizer, width, names, files, tokens_per_shard, seen
    ):
        number += 1
    sidecar = {
        "format": _FORMAT,
        "tokenizer_sha256": tokenizer.sha256,
        "eos_id": tokenizer.document_start[0],
        "dtype": "uint16" if width.itemsize == 2 else "int32",
        "slices": list(names),
        "shards": [f"shard-{index:05d}" for index in range(number)],
        "files": files,
    }
    write_json(directory / "shard.json", sidecar)
    return open_shards(directory, tokenizer)


def _write_one(
    directory: Path,
    name: str,
    batches: Iterator[list[Document]],
    tokenizer: Tokenizer,
    width: np.dtype[Any],
    names: dict[str, int],
    files: dict[str, dict[str, Any]],
    tokens_per_shard: int,
    seen: Callable[[Document, int], None] | None,
) -> bool:
    """Write one shard from the next batches of documents. Without any, write nothing and return False."""
    lengths: list[int] = []
    about: list[tuple[int, int]] = []
    total = 0
    path = directory / f"{name}.bin"
    with path.open("wb") as stream:
        for batch in batches:
            encoded = document_ids(batch, tokenizer)
            lengths.extend(map(len, encoded))
            about.extend((names.setdefault(d.slice, len(names)), len(d.text.encode())) for d in batch)
            flat = np.array([token for ids in encoded for token in ids], dtype=width)
            stream.write(flat.tobytes())
            total += len(flat)
            if seen is not None:
                for document, ids in zip(batch, encoded, strict=True):
                    seen(document, len(ids))
            if total >= tokens_per_shard:
                break
    if not lengths:
        path.unlink()
        return False
    count = np.array(lengths, dtype="<i4")
    offsets = (np.cumsum(count, dtype="<i8") - count) * width.itemsize
    code = next(code for code, kind in _CODES.items() if np.dtype(kind) == width)
    with (directory / f"{name}.idx").open("wb") as stream:
        stream.write(_HEADER.pack(_MAGIC, 1, code, len(count), len(count) + 1))
        stream.write(count.tobytes() + offsets.astype("<i8").tobytes())
        stream.write(np.arange(len(count) + 1, dtype="<i8").tobytes())
    np.save(directory / f"{name}.documents.npy", np.array(about, dtype="<i4"), allow_pickle=False)
    for suffix in ("bin", "idx", "documents.npy"):
        file = directory / f"{name}.{suffix}"
        files[file.name] = {"bytes": file.stat().st_size, "sha256": file_sha256(file)}
    return True


def open_shards(directory: str | Path, tokenizer: Tokenizer | None = None, verify: bool = False) -> Shards:
    """Map the shards of a directory. Sizes are always checked, SHA-256 with `verify`.

    Errors: `DataError` for missing, damaged or foreign files, and for shards written with another tokenizer.
    """
    directory = Path(directory)
    path = directory / "shard.json"
    try:
        sidecar = _Sidecar.from_dict(read_json(path, error=DataError), str(path))
    except (ConfigError, DataError) as error:
        raise DataError(f"{error}; prepare the data again") from None
    found, names, eos_id = sidecar.tokenizer_sha256, sidecar.shards, sidecar.eos_id
    slices, files = tuple(sidecar.slices), sidecar.files
    if tokenizer is not None and found != tokenizer.sha256:
        raise DataError(
            f"{directory}: was written with another tokenizer ({found[:12]}, not {tokenizer.sha256[:12]})"
        )
    for name in [*files, *names]:
        if Path(name).name != name:
            raise DataError(f"{path}: names '{name}', which is not a file next to it; prepare the data again")
    for name, expected in files.items():
        _check_file(directory / name, expected, verify)
    tokens, lengths, about = [], [np.zeros(1, dtype=np.int64)], [np.zeros((0, 2), dtype=np.int32)]
    for name in names:
        shard, count = _map_one(directory / name)
        tokens.append(shard)
        lengths.append(count)
        about.append(_load_table(directory / f"{name}.documents.npy"))
    columns = np.concatenate(about)
    starts = np.cumsum(np.concatenate(lengths), dtype=np.int64)
    if len(columns) != len(starts) - 1 or (
        len(columns) and not 0 <= columns[:, 0].min() <= columns[:, 0].max() < len(slices)
    ):
        raise DataError(f"{directory}: document table and index disagree; prepare the data again")
    return Shards(directory, found, eos_id, slices, tuple(tokens), starts, columns[:, 0], columns[:, 1])


def _load_table(path: Path) -> npt.NDArray[np.int32]:
    """(documents, 2) slice number and bytes of each document."""
    try:
        table = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, SyntaxError) as error:
        raise DataError(
            f"{path}: is damaged ({' '.join(str(error).split())}); prepare the data again"
        ) from None
    if not isinstance(table, np.ndarray) or table.dtype != np.int32 or table.ndim != 2 or table.shape[1] != 2:
        raise DataError(f"{path}: is not a table of documents; prepare the data again")
    return table


def _map_one(stem: Path) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    """(tokens, document lengths) of one `.bin/.idx` pair."""
    index, data = Path(f"{stem}.idx"), Path(f"{stem}.bin")
    for file in (index, data):
        if not file.is_file():
            raise DataError(f"{file}: is missing; prepare the data again")
    raw = index.read_bytes()
    if len(raw) < _HEADER.size:
        raise DataError(f"{index}: is cut short; prepare the data again")
    magic, version, code, count, marks = _HEADER.unpack_from(raw)
    if magic != _MAGIC or version != 1 or code not in _CODES:
        raise DataError(f"{index}: is not a token index this version reads")
    if len(raw) != _HEADER.size + 12 * count + 8 * marks:
        raise DataError(
            f"{index}: is {len(raw)} bytes long, its header says otherwise; prepare the data again"
        )
    lengths = np.frombuffer(raw, dtype="<i4", count=count, offset=_HEADER.size).astype(np.int64)
    kind = np.dtype(_CODES[code])
    if not count or lengths.min() < 1:
        raise DataError(f"{index}: holds a document without tokens; prepare the data again")
    if data.stat().st_size != int(lengths.sum()) * kind.itemsize:
        raise DataError(f"{data}: its size does not fit its index; prepare the data again")
    return np.memmap(data, dtype=kind, mode="r"), lengths


def _check_file(path: Path, expected: _ShardFile, verify: bool) -> None:
    if not path.is_file():
        raise DataError(f"{path}: is missing; prepare the data again")
    if path.stat().st_size != expected.bytes:
        raise DataError(
            f"{path}: has {path.stat().st_size} bytes, {expected.bytes} were written; prepare it again"
        )
    if verify and file_sha256(path) != expected.sha256:
        raise DataError(f"{path}: its content has changed since it was written; prepare the data again")
