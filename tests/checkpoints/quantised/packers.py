"""Independent packers of the published quantised forms, written from their formulas, one number at a time.

Each returns what a file holds of a matrix, by the ending of its name, and the matrix that this means.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.families.hf import tiny

Packed = tuple[dict[str, Tensor], Tensor]
Pack = Callable[[torch.Generator, int, int], Packed]
E2M1 = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0]


def whole(g: torch.Generator, low: int, high: int, *shape: int) -> Tensor:
    """Random whole numbers from `low` to `high`, both included."""
    return torch.randint(low, high + 1, shape, generator=g)


def factors(g: torch.Generator, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Random scales between 0.01 and 0.03."""
    return (torch.rand(*shape, generator=g) * 0.02 + 0.01).to(dtype)


def words(rows: Sequence[Sequence[int]], bits: int) -> Tensor:
    """Each row's numbers as one long whole number, number i times 2 ** (bits i), cut into int32."""
    packed = []
    for row in rows:
        total = sum(int(value) << (bits * place) for place, value in enumerate(row))
        count = -(-len(row) * bits // 32)
        cut = [(total >> (32 * word)) & 0xFFFFFFFF for word in range(count)]
        packed.append([word - (1 << 32) if word >> 31 else word for word in cut])
    return torch.tensor(packed, dtype=torch.int32)


def grouped(codes: Tensor, zeros: Tensor, scales: Tensor, group_of: Sequence[int]) -> Tensor:
    """(O, I): scale times (code minus zero), both of the group that a column belongs to; (O, B) each."""
    rows, columns = codes.shape
    result = torch.empty(rows, columns)
    for column in range(columns):
        group = group_of[column]
        result[:, column] = scales[:, group].float() * (codes[:, column] - zeros[:, group]).float()
    return result


def blocks_of(numbers: Tensor, scales: Tensor, rows: int, columns: int) -> Tensor:
    """(O, I): each number times the scale of its block of `rows` x `columns`."""
    result = torch.empty(numbers.shape)
    for row in range(numbers.shape[0]):
        for column in range(numbers.shape[1]):
            result[row, column] = (
                numbers[row, column].float() * scales[row // rows, column // columns].float()
            )
    return result


def nibbles(codes: Tensor, low_first: bool = True) -> Tensor:
    """(O, I / 2) bytes from codes (O, I): two neighbours share a byte."""
    first, second = codes[..., 0::2], codes[..., 1::2]
    return ((first | second << 4) if low_first else (second | first << 4)).to(torch.uint8)


def fp8(
    rows: int | None = None, columns: int | None = None, ending: str = ".weight_scale_inv", flat: bool = False
) -> Pack:
    """Blocks of `rows` x `columns` (None: all), their scales under `ending`."""

    def pack(g: torch.Generator, height: int, width: int) -> Packed:
        of_rows, of_columns = rows or height, columns or width
        numbers = torch.randn(height, width, generator=g).to(torch.float8_e4m3fn)
        scales = factors(g, -(-height // of_rows), -(-width // of_columns))
        stored = scales.flatten()[0] if flat else scales
        parts = {".weight": numbers, ending: stored.clone(), ".input_scale": torch.ones(1)}
        return parts, blocks_of(numbers, scales, of_rows, of_columns)

    return pack


def mxfp8(ending: str = ".weight_scale", dtype: torch.dtype = torch.uint8) -> Pack:
    """Blocks of 32 of a row, whose scales are powers of two."""

    def pack(g: torch.Generator, height: int, width: int) -> Packed:
        numbers = torch.randn(height, width, generator=g).to(torch.float8_e4m3fn)
        exponents = whole(g, 118, 124, height, width // 32)
        scales = torch.tensor([[2.0 ** (int(e) - 127) for e in row] for row in exponents])
        return {".weight": numbers, ending: exponents.to(torch.uint8).view(dtype)}, blocks_of(
            numbers, scales, 1, 32
        )

    return pack


def directory(
    path: Path, pack: Pack, config: dict[str, Any], name: str = "qwen3_moe", **changes: Any
) -> dict[str, Tensor]:
    """A tiny model whose attention and feed-forward matrices are packed; returns what all tensors mean."""
    sizes = {"moe_intermediate_size": 32, "intermediate_size": 64, "num_experts": 4, "num_hidden_layers": 2}
    tiny(name, **(sizes | changes)).save_pretrained(path)
    generator = torch.Generator().manual_seed(7)
    stored, meant = {}, {}
    for full, tensor in load_file(path / "model.safetensors").items():
        if full.endswith("_proj.weight"):
            parts, meant[full] = pack(generator, *tensor.shape)
            stored |= {full.removesuffix(".weight") + ending: part for ending, part in parts.items()}
        else:
            stored[full] = meant[full] = tensor
    save_file({full: tensor.contiguous() for full, tensor in stored.items()}, path / "model.safetensors")
    quantised(path, config)
    return meant


def quantised(path: Path, config: dict[str, Any]) -> None:
    """State `config` in a directory's config.json."""
    data = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(data | {"quantization_config": config}))
