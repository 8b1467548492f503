"""Blocks packed by llama.cpp itself, one file per type: read bit for bit, and close to what was packed.

Needs `llama-cpp-python` (0.3.36 was used): without it these tests are skipped.
"""

from __future__ import annotations

import ctypes
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import gguf
from coterie.checkpoints.gguf_file.tensors import GgufTensors
from coterie.checkpoints.gguf_file.types import BY_NAME, PLAIN
from coterie.gguf.export import export_gguf
from tests.checkpoints.gguf_file.files import reference, write_file
from tests.gguf.models import write

FOUND = importlib.util.find_spec("llama_cpp")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(FOUND is None, reason="llama-cpp-python is not installed")]
SHAPE = (2, 24, 512)
# The largest relative error of normal numbers, with room; it tells types apart, and a wrong order is above 1.
ERRORS = {"Q8": 0.01, "Q6": 0.03, "Q5": 0.06, "Q4": 0.12, "IQ4": 0.12, "MXFP4": 0.2, "NVFP4": 0.2}
ERRORS |= {"Q3": 0.25, "IQ3": 0.3, "Q2": 0.4, "IQ2": 0.5, "IQ1": 0.75, "TQ": 0.9}


def ggml() -> Any:
    assert FOUND is not None and FOUND.origin is not None
    library = ctypes.CDLL(str(Path(FOUND.origin).parent / "lib" / "libggml-base.so"))
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_chunk.argtypes = [
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_void_p,
        *[ctypes.c_int64] * 3,
        ctypes.c_void_p,
    ]
    return library


def packed_by_llama_cpp(rows_RI: Any, kind: str) -> Any:
    """(R, bytes of a row); every number of a row matters as much, for types that need to know."""
    rows_RI = np.ascontiguousarray(rows_RI, np.float32)
    count, length = rows_RI.shape
    block = BY_NAME[kind]
    packed = np.zeros((count, length // block.block * block.nbytes), np.uint8)
    weights = np.ones(length, np.float32)
    size = ggml().ggml_quantize_chunk(
        int(gguf.GGMLQuantizationType[kind]),
        rows_RI.ctypes.data,
        packed.ctypes.data,
        0,
        count,
        length,
        weights.ctypes.data if kind.startswith(("IQ1", "IQ2")) else None,
    )
    assert size == packed.nbytes
    return packed


@pytest.mark.parametrize("kind", [kind for kind in BY_NAME if kind not in PLAIN])
def test_blocks_of_llama_cpp(kind: str, tmp_path: Path) -> None:
    numbers = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    packed = packed_by_llama_cpp(numbers.reshape(-1, SHAPE[-1]), kind).reshape(*SHAPE[:-1], -1)
    source = GgufTensors.open(write_file(tmp_path / "x.gguf", {"x": (kind, packed)}))
    found = source.read("x").numpy()
    np.testing.assert_array_equal(found.view(np.uint32), reference(packed, kind).view(np.uint32))
    error = float(np.sqrt(((found - numbers) ** 2).mean()))
    allowed = next(value for start, value in ERRORS.items() if kind.startswith(start))
    assert allowed / 4 < error < allowed
    assert torch.equal(source.read_part("x", 1), source.read("x")[1])


@pytest.mark.parametrize("mix", ["Q4_K_M", "Q3_K_M", "IQ4_XS", "Q2_K"])
def test_a_model_quantised_by_llama_cpp(mix: str, tmp_path: Path) -> None:
    """Its quantiser chooses a type per tensor; each is read as it is stored."""
    import llama_cpp

    directory = write("llama", tmp_path / "m", hidden_size=256, intermediate_size=512)
    plain = export_gguf(directory, tmp_path / "f32.gguf", "f32").file
    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{mix}")
    settings.nthread = 1
    made = tmp_path / "made.gguf"
    assert (
        llama_cpp.llama_model_quantize(str(plain).encode(), str(made).encode(), ctypes.byref(settings)) == 0
    )
    source, wanted = GgufTensors.open(made), gguf.GGUFReader(made)
    assert len(source.bytes_by_type) >= 3
    for tensor in wanted.tensors:
        numbers = np.asarray(gguf.quants.dequantize(tensor.data, tensor.tensor_type), np.float32)
        found = source.read(tensor.name).float().numpy()
        np.testing.assert_array_equal(found, numbers.reshape(found.shape))
