"""The number types of a GGUF file: id, numbers and bytes of a block (ggml's table of types)."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class BlockType:
    """A type: `block` neighbouring numbers of a row fill `nbytes` bytes."""

    name: str
    block: int
    nbytes: int


def _types(rows: dict[int, tuple[str, int, int]]) -> dict[int, BlockType]:
    return {kind: BlockType(*row) for kind, row in rows.items()}


TYPES = _types(
    {
        0: ("F32", 1, 4),
        1: ("F16", 1, 2),
        2: ("Q4_0", 32, 18),
        3: ("Q4_1", 32, 20),
        6: ("Q5_0", 32, 22),
        7: ("Q5_1", 32, 24),
        8: ("Q8_0", 32, 34),
        10: ("Q2_K", 256, 84),
        11: ("Q3_K", 256, 110),
        12: ("Q4_K", 256, 144),
        13: ("Q5_K", 256, 176),
        14: ("Q6_K", 256, 210),
        16: ("IQ2_XXS", 256, 66),
        17: ("IQ2_XS", 256, 74),
        18: ("IQ3_XXS", 256, 98),
        19: ("IQ1_S", 256, 50),
        20: ("IQ4_NL", 32, 18),
        21: ("IQ3_S", 256, 110),
        22: ("IQ2_S", 256, 82),
        23: ("IQ4_XS", 256, 136),
        24: ("I8", 1, 1),
        25: ("I16", 1, 2),
        26: ("I32", 1, 4),
        27: ("I64", 1, 8),
        28: ("F64", 1, 8),
        29: ("IQ1_M", 256, 56),
        30: ("BF16", 1, 2),
        34: ("TQ1_0", 256, 54),
        35: ("TQ2_0", 256, 66),
        39: ("MXFP4", 32, 17),
        40: ("NVFP4", 64, 36),
    }
)
BY_NAME = {kind.name: kind for kind in TYPES.values()}
# Types that a file may name and that are not read: why, as the end of a sentence.
_REPACKED = "a layout that llama.cpp removed in 2025; convert the model again"
_UNWRITTEN = "a type of intermediate results, which no file of weights has"
REFUSED = {
    **dict.fromkeys((4, 5), "a type that llama.cpp removed in 2023; convert the model again"),
    9: _UNWRITTEN,
    15: _UNWRITTEN,
    **dict.fromkeys((31, 32, 33, 36, 37, 38), _REPACKED),
    41: "Q1_0, a new type of llama.cpp that is not read here; take another quantisation",
    42: "Q2_0, a new type of llama.cpp that is not read here; take another quantisation",
}
# Types whose numbers torch has itself.
PLAIN = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F64": torch.float64,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
}
