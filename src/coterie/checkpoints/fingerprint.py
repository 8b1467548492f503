"""A short identity of a directory's weights, from sampled bytes: a changed base is noticed at little cost.

A manifest says what the weights were when they were saved; only their bytes say what they are now.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from coterie.checkpoints.gguf_file.split import read_headers
from coterie.checkpoints.locate import weight_files
from coterie.checkpoints.tensor_reader import read_header
from coterie.config import CheckpointError

_BLOCK, _BLOCKS = 4096, 16
_Place = tuple[str, str, tuple[int, ...], int, int]  # name, type, shape, first byte, end
WORDS = f"every tensor's name, type, shape and up to {_BLOCKS} blocks of {_BLOCK} bytes"


def weights_fingerprint(directory: Path) -> str:
    """SHA-256 over what `WORDS` says of all tensors in `directory`, whatever files they are spread over.

    A tensor of up to 64 KiB is read whole. `directory` may be a GGUF file. Errors: `CheckpointError` for
    files that cannot be read.
    """
    found: dict[str, bytes] = {}
    for file, places in _places(directory):
        try:
            with open(file, "rb", buffering=0) as handle:
                for name, kind, shape, begin, end in places:
                    digest = hashlib.sha256(repr((name, kind, shape)).encode())
                    for start, length in _samples(begin, end):
                        handle.seek(start)
                        digest.update(handle.read(length))
                    found[name] = digest.digest()
        except OSError as error:
            raise CheckpointError(f"{file}: cannot be read ({error.strerror})") from None
    return hashlib.sha256(b"".join(found[name] for name in sorted(found))).hexdigest()


def _places(path: Path) -> Iterator[tuple[Path, list[_Place]]]:
    """Every weight file with its tensors."""
    if path.is_file():
        for header in read_headers(path):
            gguf = header.tensors.items()
            yield header.path, [(name, one.type.name, one.shape, one.start, one.end) for name, one in gguf]
        return
    for file in weight_files(path):
        entries = read_header(file).items()
        yield file, [(name, one.dtype, one.shape, one.start, one.end) for name, one in entries]


def _samples(begin: int, end: int) -> Iterator[tuple[int, int]]:
    """(first byte, length) of each sample: the whole, or blocks at equal distances, both ends included."""
    size = end - begin
    if size <= _BLOCK * _BLOCKS:
        yield begin, size
        return
    for number in range(_BLOCKS):
        yield begin + (size - _BLOCK) * number // (_BLOCKS - 1), _BLOCK
