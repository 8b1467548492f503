"""GGUF files of random blocks, written by the format's own package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import gguf
from coterie.checkpoints.gguf_file.types import BY_NAME


def random_blocks(kind: str, count: int, random: np.random.Generator) -> Any:
    """(count, bytes) blocks of any bits whose numbers are all finite, so that every bit can be compared."""
    size = BY_NAME[kind].nbytes
    blocks = random.integers(0, 256, (2 * count + 64, size), dtype=np.uint8)
    if kind == "NVFP4":
        blocks[:, :4] %= 127
    if kind == "MXFP4":
        blocks = blocks[blocks[:, 0] != 255]
    blocks = blocks[np.isfinite(reference(blocks, kind)).all(-1)]
    assert len(blocks) >= count
    return blocks[:count]


def reference(packed: Any, kind: str) -> Any:
    """Numbers of packed rows, as the gguf package unpacks them."""
    with np.errstate(all="ignore"):
        return gguf.quants.dequantize(packed, gguf.GGMLQuantizationType[kind])


def write_file(
    path: Path, tensors: dict[str, tuple[str, Any]], keys: dict[str, int] | None = None, arch: str = "llama"
) -> Path:
    """Write tensors, name -> (type, packed rows with the bytes of a row last); `keys` as 32-bit numbers."""
    writer = gguf.GGUFWriter(path, arch)
    for name, value in (keys or {}).items():
        writer.add_uint32(name, value)
    for name, (kind, packed) in tensors.items():
        writer.add_tensor(name, packed, raw_dtype=gguf.GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
