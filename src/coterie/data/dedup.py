"""Removal of repeated documents: equal up to white space, or nearly equal by MinHash.

The first document of a group is kept. Near-duplicates share at least `threshold` of their five-word shingles
(Jaccard similarity, estimated from 128 MinHash values; Broder 1997). All hashing is seeded, so the same
documents always give the same result.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from coterie.data.documents import Document

if TYPE_CHECKING:
    import numpy.typing as npt

NUM_HASHES = 128
_WIDTHS = (32, 16, 8, 4, 2, 1)
_FOUND = 0.94  # of the pairs just at the threshold; it gives bands of 8 at a threshold of 0.8
SHINGLE_WORDS = 5
_SEED = 42
_BATCH_BYTES = 4_000_000
_BASE = np.uint64(0x9E3779B97F4A7C15)  # odd, so it has an inverse modulo 2^64
_BASE_INVERSE = np.uint64(pow(0x9E3779B97F4A7C15, -1, 2**64))


def content_digest(text: str) -> bytes:
    """SHA-256 of the text with every run of white space replaced by one blank."""
    return hashlib.sha256(" ".join(text.split()).encode()).digest()


def deduplicate(
    documents: Sequence[Document], exact: bool = True, near: bool = True, threshold: float = 0.8
) -> tuple[list[Document], dict[str, int]]:
    """The documents to keep, in order, and how many were dropped, as `exact duplicate` and `near duplicate`.

    `threshold`: Jaccard similarity from which two documents are near-duplicates.
    """
    kept = list(documents)
    counts: dict[str, int] = {}
    if exact:
        first: dict[bytes, Document] = {}
        for document in kept:
            first.setdefault(content_digest(document.text), document)
        counts["exact duplicate"] = len(kept) - len(first)
        kept = list(first.values())
    if near and kept:
        drop = _near_duplicates([document.text for document in kept], threshold)
        counts["near duplicate"] = int(drop.sum())
        kept = [document for document, gone in zip(kept, drop, strict=True) if not gone]
    return kept, counts


def band_width(threshold: float) -> int:
    """Values per LSH band: the largest width at which most pairs at `threshold` share a band."""
    return next((w for w in _WIDTHS if 1 - (1 - threshold**w) ** (NUM_HASHES // w) >= _FOUND), 1)


def _near_duplicates(texts: Sequence[str], threshold: float) -> npt.NDArray[np.bool_]:
    """For each text, whether it resembles an earlier text that is kept."""
    import rensa

    hashes, offsets = shingle_hashes(texts)
    matrix = rensa.RMinHash.digest_matrix_from_flat_token_hashes(hashes, offsets, NUM_HASHES, _SEED)
    width = band_width(threshold)
    num_bands = NUM_HASHES // width
    index = rensa.RMinHashLSH(threshold, NUM_HASHES, num_bands)
    # The index says quickly which few rows meet any other in a band; only those are compared one by one.
    suspects = np.flatnonzero(np.array(index.query_duplicate_flags_matrix_one_shot(matrix), dtype=bool))
    drop = np.zeros(len(texts), dtype=bool)
    seen: dict[tuple[int, bytes], list[int]] = {}
    digests = {int(row): _digest(hashes[offsets[row] : offsets[row + 1]]) for row in suspects}
    for row, digest in digests.items():
        keys = [(band, digest[band * width : (band + 1) * width].tobytes()) for band in range(num_bands)]
        others = {other for key in keys for other in seen.get(key, ())}
        if any(np.mean(digests[other] == digest) >= threshold for other in others):
            drop[row] = True
            continue
        for key in keys:
            seen.setdefault(key, []).append(row)
    return drop


def _digest(hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint32]:
    import rensa

    ends = np.array([0, len(hashes)], dtype=np.uint64)
    rows = rensa.RMinHash.digest_matrix_from_flat_token_hashes(hashes, ends, NUM_HASHES, _SEED).to_rows()
    return np.array(rows[0], dtype=np.uint32)


def shingle_hashes(texts: Sequence[str]) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """64-bit hashes of the five-word shingles of all texts, flat, and the offsets (len + 1) of the texts.

    Words are runs of letters, digits and non-ASCII bytes, in lower case. Every other visible character is a
    word by itself. A text with fewer words has one shingle.
    """
    parts: list[npt.NDArray[np.uint64]] = []
    counts: list[npt.NDArray[np.int64]] = []
    batch: list[bytes] = []
    size = 0
    for text in texts:
        batch.append(text.lower().encode())
        size += len(batch[-1])
        if size >= _BATCH_BYTES:
            _shingle_batch(batch, parts, counts)
            batch, size = [], 0
    if batch:
        _shingle_batch(batch, parts, counts)
    offsets = np.zeros(len(texts) + 1, dtype=np.uint64)
    offsets[1:] = np.cumsum(np.concatenate(counts)) if counts else []
    return (np.concatenate(parts) if parts else np.zeros(0, dtype=np.uint64)), offsets


def _shingle_batch(
    batch: list[bytes], parts: list[npt.NDArray[np.uint64]], counts: list[npt.NDArray[np.int64]]
) -> None:
    """Append the shingles of one batch.

    A word's hash is a polynomial of its bytes modulo 2^64, computed for all words at once as a difference of
    prefix sums, divided by the power of the base where the word begins.
    """
    raw = np.frombuffer(b" ".join(batch) + b" ", dtype=np.uint8)
    kind = _KIND[raw]
    word = kind == 1
    follows = np.concatenate(([False], word[:-1]))
    precedes = np.concatenate((word[1:], [False]))
    starts = np.flatnonzero((kind == 2) | (word & ~follows))
    ends = np.flatnonzero((kind == 2) | (word & ~precedes)) + 1
    powers = np.ones(len(raw) + 1, dtype=np.uint64)
    powers[1:] = _BASE
    np.multiply.accumulate(powers, out=powers)
    sums = np.zeros(len(raw) + 1, dtype=np.uint64)
    np.cumsum((raw.astype(np.uint64) + np.uint64(1)) * powers[:-1], out=sums[1:])
    inverse = np.full(len(raw) + 1, _BASE_INVERSE, dtype=np.uint64)
    inverse[0] = 1
    np.multiply.accumulate(inverse, out=inverse)
    words = _mix((sums[ends] - sums[starts]) * inverse[starts])

    document_ends = np.cumsum([len(text) + 1 for text in batch])
    last = np.searchsorted(starts, document_ends)  # one past each document's last word
    first = np.concatenate(([0], last[:-1]))
    num_shingles = np.maximum(last - first - SHINGLE_WORDS + 1, np.minimum(last - first, 1))
    place = np.arange(int(num_shingles.sum())) - np.repeat(
        np.cumsum(num_shingles) - num_shingles, num_shingles
    )
    begin, end = place + np.repeat(first, num_shingles), np.repeat(last, num_shingles)
    padded = np.concatenate((words, np.zeros(SHINGLE_WORDS, dtype=np.uint64)))
    value = np.zeros(len(begin), dtype=np.uint64)
    for step in range(SHINGLE_WORDS):
        value = value * _BASE + np.where(begin + step < end, padded[begin + step], np.uint64(0))
    parts.append(_mix(value))
    counts.append(num_shingles.astype(np.int64))


def _mix(value: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The finaliser of MurmurHash3: spreads low-bit patterns over the whole word."""
    value = (value ^ (value >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    value = (value ^ (value >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return value ^ (value >> np.uint64(33))


def _kinds() -> npt.NDArray[np.uint8]:
    """0 white space and control, 1 part of a word, 2 a word by itself."""
    kinds = [
        0 if byte <= 32 or byte == 127 else 1 if byte >= 128 or chr(byte).isalnum() else 2
        for byte in range(256)
    ]
    return np.array(kinds, dtype=np.uint8)


_KIND = _kinds()
