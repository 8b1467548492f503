"""GGUF files that lie: every count, type, offset and length that is wrong is named in one line, soon."""

from __future__ import annotations

import random
import struct
import time
from pathlib import Path

import pytest

from coterie.checkpoints.gguf_file.header import read_header
from coterie.checkpoints.gguf_file.recognise import is_gguf
from coterie.config import CheckpointError

BIG = 2**63


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def key(name: bytes, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


def tensor(name: bytes, shape: list[int], kind: int, offset: int) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape) + struct.pack("<IQ", kind, offset)


def whole(
    keys: list[bytes] | None = None,
    tensors: list[bytes] | None = None,
    data: bytes = bytes(64),
    start: bytes = b"GGUF",
    version: int = 3,
    counts: tuple[int, int] | None = None,
) -> bytes:
    keys = [key(b"general.name", 8, text(b"x"))] if keys is None else keys
    tensors = [tensor(b"a", [4, 4], 0, 0)] if tensors is None else tensors
    head = start + struct.pack("<IQQ", version, *(counts or (len(tensors), len(keys))))
    head += b"".join(keys + tensors)
    return head + bytes(-len(head) % 32) + data


LIES = {
    "empty": (b"", "announces"),
    "a few bytes": (b"GGUF\3\0", "announces"),
    "another format": (whole(start=b"PK\3\4"), "does not begin with GGUF"),
    "version": (whole(version=9), "version 9"),
    "big-endian": (whole(version=3 << 24), "big-endian GGUF file .for s390x"),
    "removed type": (whole(tensors=[tensor(b"a", [32], 31, 0)]), "type 31, a layout that llama.cpp removed"),
    "older type": (whole(tensors=[tensor(b"a", [32], 4, 0)]), "type 4, a type that llama.cpp removed"),
    "newer type": (whole(tensors=[tensor(b"a", [128], 41, 0)]), "type 41, Q1_0, a new type"),
    "tensors without end": (whole(counts=(BIG, 1)), "not a whole"),
    "keys without end": (whole(counts=(1, BIG)), "not a whole"),
    "string of 2^60": (
        whole([key(b"a", 8, struct.pack("<Q", 2**60))]),
        "announces 1,152,921,504,606,846,976",
    ),
    "name of 2^60": (whole([struct.pack("<Q", 2**60)]), "announces a name"),
    "array of 2^40": (whole([key(b"a", 9, struct.pack("<IQ", 0, 2**40))]), "announces 1,099,511,627,776"),
    "array of strings without end": (whole([key(b"a", 9, struct.pack("<IQ", 8, BIG))]), "announces"),
    "array of arrays": (whole([key(b"a", 9, struct.pack("<IQ", 9, 2))]), "array of arrays"),
    "unknown type": (whole([key(b"a", 77, bytes(8))]), "unknown type 77"),
    "key twice": (whole([key(b"a", 0, b"1"), key(b"a", 0, b"2")]), "'a' is there twice"),
    "name not UTF-8": (whole([key(b"\xff", 0, b"1")]), "decode"),
    "alignment of 0": (whole([key(b"general.alignment", 4, struct.pack("<I", 0))]), "alignment"),
    "alignment of another type": (whole([key(b"general.alignment", 8, text(b"32"))]), "alignment"),
    "tensor twice": (whole(tensors=[tensor(b"a", [1], 0, 0), tensor(b"a", [1], 0, 32)]), "twice"),
    "unknown tensor type": (whole(tensors=[tensor(b"a", [4], 999, 0)]), "unknown type 999"),
    "dimensions without end": (whole(tensors=[text(b"a") + struct.pack("<I", 2**31)]), "dimensions"),
    "sides of 2^40": (whole(tensors=[tensor(b"a", [2**40, 2**40], 0, 0)]), "the file at"),
    "beyond the end": (whole(tensors=[tensor(b"a", [4], 0, 2**40)]), "the file at"),
    "not aligned": (whole(tensors=[tensor(b"a", [4], 0, 3)]), "not aligned"),
    "overlap": (whole(tensors=[tensor(b"a", [16], 0, 0), tensor(b"b", [4], 0, 32)]), "overlaps"),
    "half a block": (whole(tensors=[tensor(b"a", [33], 8, 0)]), "whole blocks of 32"),
}


@pytest.mark.parametrize("name", LIES)
def test_a_file_that_lies_is_refused_in_one_line_soon(name: str, tmp_path: Path) -> None:
    content, reason = LIES[name]
    file = tmp_path / "a.gguf"
    file.write_bytes(content)
    started = time.process_time()
    with pytest.raises(CheckpointError, match=reason) as caught:
        read_header(file)
    assert time.process_time() - started < 5 and "\n" not in str(caught.value)


def test_a_whole_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(whole())
    header = read_header(tmp_path / "a.gguf")
    assert {name: (place.type.name, place.shape) for name, place in header.tensors.items()} == {
        "a": ("F32", (4, 4))
    }
    assert header.keys == {"general.name": "x"} and is_gguf(tmp_path / "a.gguf")


def test_damage_anywhere_is_refused_or_read(tmp_path: Path) -> None:
    file, random_ = tmp_path / "a.gguf", random.Random(3)
    good = whole([key(b"a", 9, struct.pack("<IQ", 8, 2) + text(b"x") + text(b"y"))])
    refused = 0
    for _ in range(300):
        content = bytearray(good)
        content[random_.randrange(len(content) - 64)] ^= 1 << random_.randrange(8)
        del content[random_.choice([len(content), random_.randrange(len(content))]) :]
        file.write_bytes(content)
        try:
            read_header(file)
        except CheckpointError as error:
            refused += 1
            assert str(file) in str(error)
    assert refused > 200


def test_what_is_no_file(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(CheckpointError, match="cannot be read"):
            read_header(path)
