"""A short identity of a directory's weights, from sampled bytes: a changed base is noticed at little cost.

A manifest says what the weights were when they were saved; only their bytes say what they are now.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from coterie.checkpoints.locate import weight_files
from coterie.checkpoints.tensor_reader import TensorEntry, read_header
from coterie.config import CheckpointError

_BLOCK, _BLOCKS = 4096, 16
WORDS = f"every tensor's name, type, shape and up to {_BLOCKS} blocks of {_BLOCK} bytes"


def weights_fingerprint(directory: Path) -> str:
    """SHA-256 over what `WORDS` says of all tensors in `directory`, whatever files they are spread over.

    A tensor of up to 64 KiB is read whole. Errors: `CheckpointError` for files that cannot be read.
    """
    found: dict[str, bytes] = {}
    for file in weight_files(directory):
        entries = read_header(file)
        try:
            with open(file, "rb", buffering=0) as handle:
                for name, entry in entries.items():
                    digest = hashlib.sha256(repr((name, entry.dtype, entry.shape)).encode())
                    for start, length in _samples(entry):
                        handle.seek(start)
                        digest.update(handle.read(length))
                    found[name] = digest.digest()
        except OSError as error:
            raise CheckpointError(f"{file}: cannot be read ({error.strerror})") from None
    return hashlib.sha256(b"".join(found[name] for name in sorted(found))).hexdigest()


def _samples(entry: TensorEntry) -> Iterator[tuple[int, int]]:
    """(first byte, length) of each sample: the whole, or blocks at equal distances, both ends included."""
    size = entry.end - entry.start
    if size <= _BLOCK * _BLOCKS:
        yield entry.start, size
        return
    for number in range(_BLOCKS):
        yield entry.start + (size - _BLOCK) * number // (_BLOCKS - 1), _BLOCK
