"""Rows that are sampled and not yet learnt from, as text for a checkpoint: exact to the last bit.

Several updates learn from one batch of replies. A run that is stopped between two of them cannot sample the
batch again, because its weights have moved.
"""

from __future__ import annotations

import base64
import io
import zipfile
import zlib
from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from coterie.data.rows import Row

_FIELDS = ("ids", "targets", "weights")


def pack_rows(pieces: Sequence[Sequence[Row]]) -> str:
    """The rows of several micro-batches as base64 of compressed numpy arrays. All have the same streams."""
    rows = [row for piece in pieces for row in piece]
    if not rows:
        return ""
    arrays = {
        "pieces": np.array([len(piece) for piece in pieces]),
        "tokens": np.array([len(row.ids) for row in rows]),
        "segments": np.array([len(row.lengths) for row in rows]),
        "lengths": np.array([length for row in rows for length in row.lengths]),
        "padding": np.array([row.num_padding for row in rows]),
        **{name: np.concatenate([getattr(row, name) for row in rows]) for name in _FIELDS},
        **{f"stream {name}": np.concatenate([row.streams[name] for row in rows]) for name in rows[0].streams},
    }
    file = io.BytesIO()
    np.savez_compressed(file, allow_pickle=False, **arrays)
    return base64.b64encode(file.getvalue()).decode()


def unpack_rows(text: str) -> list[list[Row]]:
    """What `pack_rows` was given. Errors: `ValueError` for text that it did not make."""
    if not text:
        return []
    try:
        with np.load(io.BytesIO(base64.b64decode(text, validate=True)), allow_pickle=False) as file:
            arrays = dict(file)
        return _rows(arrays)
    except (ValueError, zipfile.BadZipFile, zlib.error, EOFError, KeyError, IndexError) as error:
        raise ValueError(f"the rows that were not learnt from yet cannot be read ({error})") from None


def _rows(arrays: dict[str, np.ndarray]) -> list[list[Row]]:
    streams = [name for name in arrays if name.startswith("stream ")]
    ends, segment_ends = (list(accumulate(arrays[name].tolist())) for name in ("tokens", "segments"))
    rows = []
    for at, (end, segment_end) in enumerate(zip(ends, segment_ends, strict=True)):
        here = slice(end - int(arrays["tokens"][at]), end)
        segments = arrays["lengths"][segment_end - int(arrays["segments"][at]) : segment_end]
        rows.append(
            Row(
                arrays["ids"][here],
                arrays["targets"][here],
                arrays["weights"][here],
                tuple(int(length) for length in segments),
                int(arrays["padding"][at]),
                {name.removeprefix("stream "): arrays[name][here] for name in streams},
            )
        )
    pieces = []
    for end, count in zip(accumulate(arrays["pieces"].tolist()), arrays["pieces"].tolist(), strict=True):
        pieces.append(rows[end - count : end])
    return pieces
