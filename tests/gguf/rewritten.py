"""GGUF files written again with other keys and tensors, as other programs and broken copies have them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

Arrays = dict[str, Any]


def rewrite(
    file: Path,
    out: Path,
    keys: Mapping[str, Any] | None = None,
    change: Callable[[Arrays], Any] | None = None,
) -> Path:
    """`file` with changed keys (None: without the key) and tensors passed through `change`.

    It is in float32, or has one quantised type besides, whose rows `change` gets as bytes.
    """
    import gguf

    reader = gguf.GGUFReader(file)
    found = {
        name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")
    } | dict(keys or {})
    packed = {tensor.tensor_type for tensor in reader.tensors if tensor.data.dtype == np.uint8}
    tensors: Arrays = {tensor.name: np.array(tensor.data) for tensor in reader.tensors}
    if change is not None:
        change(tensors)
    writer = gguf.GGUFWriter(out, found.pop("general.architecture"))
    for name, value in found.items():
        if value is None:
            continue
        if isinstance(value, list):
            kind = (
                gguf.GGUFValueType.INT32 if type(value[0]) is int else gguf.GGUFValueType.get_type(value[0])
            )
            writer.add_key_value(name, value, gguf.GGUFValueType.ARRAY, sub_type=kind)
        elif isinstance(value, int) and not isinstance(value, bool):
            writer.add_key_value(name, value, gguf.GGUFValueType.UINT32)
        else:
            writer.add_key_value(name, value, gguf.GGUFValueType.get_type(value))
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor, raw_dtype=min(packed) if tensor.dtype == np.uint8 else None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out
