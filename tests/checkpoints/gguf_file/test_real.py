"""A published GGUF file: keys and numbers are those that the gguf package finds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import gguf
from coterie.checkpoints.gguf_file.tensors import GgufTensors
from tests.real import smollm2_gguf

pytestmark = [pytest.mark.slow, pytest.mark.real]


def test_every_key_and_every_number(tmp_path: Path) -> None:
    file = smollm2_gguf(tmp_path)
    source, wanted = GgufTensors.open(file), gguf.GGUFReader(file)
    fields = {name: field for name, field in wanted.fields.items() if not name.startswith("GGUF.")}
    assert list(source.keys) == list(fields) and len(source.keys["tokenizer.ggml.tokens"]) == 49152
    for name, field in fields.items():
        assert source.keys[name] == field.contents(), name
    assert set(source.bytes_by_type) == {"F32", "Q4_1", "Q8_0"} and len(list(source)) == 272
    for tensor in wanted.tensors:
        found = source.read(tensor.name).numpy()
        numbers = gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(found.shape)
        np.testing.assert_array_equal(found.view(np.uint32), numbers.view(np.uint32))
