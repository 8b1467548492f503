"""Every key of a GGUF model replaced by values of every type: it is read, or refused in one line, soon."""

from __future__ import annotations

import struct
import time
from pathlib import Path
from typing import Any

import pytest

from coterie.checkpoints.gguf_file.header import GgufHeader, read_header
from coterie.checkpoints.gguf_file.types import TYPES
from coterie.config import CoterieError
from coterie.gguf.export import export_gguf
from tests.checkpoints.gguf_file.test_header import tensor, text
from tests.gguf.models import write
from tests.test_hostile_files import read_model

GONE = "is not there"
HOSTILE: list[Any] = [
    0, -1, 1, 3, 2**31, 2**32 - 1, 2**63, 0.0, -1.0, 1e38, float("nan"), float("inf"), "", "x", "a" * 5000,
    True, [], [1], ["x"], [0.5], [2**40] * 3, [-1] * 400, GONE,
]  # fmt: skip
IDS = {kind.name: number for number, kind in TYPES.items()}


def value(of: Any) -> tuple[int, bytes]:
    """The type's number and the bytes of a value."""
    if isinstance(of, bool):
        return 7, struct.pack("<?", of)
    if isinstance(of, int):
        return (11, struct.pack("<q", of)) if of < 0 else (10, struct.pack("<Q", of))
    if isinstance(of, float):
        return 6, struct.pack("<f", of)
    if isinstance(of, str):
        return 8, text(of.encode())
    members = [value(one) for one in of]
    kind = members[0][0] if members else 4
    return 9, struct.pack("<IQ", kind, len(members)) + b"".join(content for _, content in members)


def rewritten(header: GgufHeader, keys: dict[str, Any], content: bytes) -> bytes:
    """The file with other keys."""
    head = b"GGUF" + struct.pack("<IQQ", 3, len(header.tensors), len(keys))
    for name, one in keys.items():
        kind, packed = value(one)
        head += text(name.encode()) + struct.pack("<I", kind) + packed
    first = min(place.start for place in header.tensors.values())
    for name, place in header.tensors.items():
        head += tensor(name.encode(), list(place.shape[::-1]), IDS[place.type.name], place.start - first)
    return head + bytes(-len(head) % 32) + content[first:]


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", ["llama", "qwen3_moe", "deepseek_v3", "phi3_long", "olmo3", "mistral4", "glm_moe_dsa"]
)
def test_every_key_with_every_value(kind: str, tmp_path: Path) -> None:
    export_gguf(write(kind, tmp_path / "m"), tmp_path / "m.gguf", "q8_0")
    header, content = read_header(tmp_path / "m.gguf"), (tmp_path / "m.gguf").read_bytes()
    file, refused = tmp_path / "other.gguf", 0
    file.write_bytes(rewritten(header, header.keys, content))
    read_model(file)
    for key in header.keys:
        for hostile in HOSTILE:
            keys = {name: one for name, one in header.keys.items() if name != key}
            keys |= {} if hostile is GONE else {key: hostile}
            file.write_bytes(rewritten(header, keys, content))
            started = time.process_time()
            try:
                read_model(file)
            except CoterieError as error:
                refused += 1
                assert "\n" not in str(error) and str(file) in str(error), (key, hostile)
            assert time.process_time() - started < 10, (key, hostile)
    assert refused > len(header.keys) * len(HOSTILE) / 3
