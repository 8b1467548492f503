"""Headers that lie, and files under other names."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coterie.checkpoints.directory import load_model
from coterie.checkpoints.tensor_reader import read_header
from coterie.config import CheckpointError
from tests.families.hf import tiny

GOOD = {
    "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "b": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]},
}


def write(path: Path, header: Any, data: bytes = b"\0" * 32, length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def changed(name: str, **fields: Any) -> dict[str, Any]:
    return GOOD | {name: GOOD[name] | fields}


def test_a_whole_header_is_read_in_the_order_of_its_bytes(tmp_path: Path) -> None:
    entries = read_header(
        write(tmp_path / "x.safetensors", {"__metadata__": {"format": "pt"}, "b": GOOD["b"], "a": GOOD["a"]})
    )
    assert list(entries) == ["a", "b"] and entries["a"].shape == (2, 3) and entries["b"].dtype == "BF16"
    assert entries["b"].end - entries["a"].start == 32


@pytest.mark.parametrize(
    ("header", "options", "message"),
    [
        (GOOD, {"length": 2**63}, "header claims"),
        (GOOD, {"length": 10_000}, "header claims"),
        (GOOD, {"length": 1}, "header claims"),
        (GOOD, {"data": b"\0" * 31}, "tensors end at byte"),
        (GOOD, {"data": b"\0" * 40}, "tensors end at byte"),
        (b"{nonsense", {}, "not valid JSON"),
        (b"[" * 5000, {}, "nested deeper than 4"),
        (b"\xff\xfe{}", {}, "not UTF-8"),
        ([1], {}, "holds a list"),
        (
            b'{"a":{"dtype":"F32","shape":[8],"data_offsets":[0,32]},"a":{"dtype":"F32","shape":[8],"data_offsets":[0,32]}}',
            {},
            'the key "a" twice',
        ),
        (changed("b", data_offsets=[20, 28]), {}, "'b' overlaps"),
        (changed("b", data_offsets=[28, 36]), {"data": b"\0" * 36}, "'b' leaves a hole"),
        (changed("a", shape=[2**40, 2**40]), {}, "does not fill its"),
        (changed("a", shape=[2, 4]), {}, "does not fill its"),
        (changed("a", shape=[-2, -3]), {}, "unusable shape"),
        (changed("a", shape=[2.0, 3]), {}, "unusable shape"),
        (changed("a", shape=[True, 6]), {}, "unusable shape"),
        (changed("a", shape="23"), {}, "unusable shape"),
        (changed("a", shape=[2**62] * 100_000), {}, "unusable shape"),
        (changed("a", data_offsets=[24, 0]), {}, "does not fill its"),
        (changed("a", data_offsets=[0, 2**64]), {}, "unusable data_offsets"),
        (changed("a", dtype="F99"), {}, "unknown type"),
        (changed("a", dtype=None), {}, "unknown type"),
        (changed("a", dtype=["F32"]), {}, "unknown type"),
        (changed("a", dtype={"F32": 1}), {}, "unknown type"),
        ({"a": 5}, {}, "lacks dtype, shape"),
    ],
)
def test_a_header_that_lies_is_refused_in_one_line(
    header: Any, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "x.safetensors", header, **options)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_header(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_damage_to_a_file_is_anything_but_one_line_or_harmless(
    tmp_path: Path, data: st.DataObject
) -> None:
    """Bytes changed, cut or added anywhere: the header is refused, or still describes tensors inside the
    file.
    """
    content = bytearray(write(tmp_path / "good", GOOD).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(content)))
    content = content[:cut] if data.draw(st.booleans()) else content
    content += data.draw(st.binary(max_size=16))
    path = tmp_path / "bad.safetensors"
    path.write_bytes(bytes(content))
    try:
        entries = read_header(path)
    except CheckpointError as error:
        assert "\n" not in str(error)
    else:
        assert all(0 <= entry.start <= entry.end <= len(content) for entry in entries.values())


@pytest.mark.parametrize("start", [b"PK\x03\x04" + b"\0" * 60, b"\x80\x02}q\x00" + b"\0" * 60])
def test_a_pickle_under_another_name_is_refused(start: bytes, tmp_path: Path) -> None:
    tiny("llama").save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(start)
    with pytest.raises(CheckpointError, match="pickle under another name"):
        load_model(tmp_path)


@pytest.mark.parametrize("length", [0x0280, 0x0480, 0x10580])
def test_a_header_whose_length_looks_like_a_pickle_is_read(length: int, tmp_path: Path) -> None:
    text = b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}'
    (tmp_path / "a.safetensors").write_bytes(
        struct.pack("<Q", length) + text.ljust(length) + struct.pack("<f", 2.5)
    )
    assert list(read_header(tmp_path / "a.safetensors")) == ["a"]
