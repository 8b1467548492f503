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


def gptq(
    bits: int = 4, group: int = 16, added: int = 1, symmetric: bool = False, order: bool | None = None
) -> Pack:
    """Codes along the input; stored zeros are `added` less. `order`: None without g_idx, True shuffled."""

    def pack(g: torch.Generator, height: int, width: int) -> Packed:
        size = width if group == -1 else group
        codes, count = whole(g, 0, 2**bits - 1, height, width), -(-width // size)
        zeros = whole(g, 0, 2**bits - 1, height, count)
        zeros = torch.full_like(zeros, 2 ** (bits - 1)) if symmetric else zeros
        scales = factors(g, height, count, dtype=torch.float16)
        place = torch.randperm(width, generator=g).tolist() if order else range(width)
        group_of = [at // size for at in place]
        parts = {
            ".qweight": words(codes.tolist(), bits).T,
            ".qzeros": words(((zeros - added) % 2**bits).T.tolist(), bits),
            ".scales": scales.T,
        }
        parts |= {} if order is None else {".g_idx": torch.tensor(group_of, dtype=torch.int32)}
        return parts, grouped(codes, zeros, scales, group_of)

    return pack


def awq(group: int = 16, symmetric: bool = False) -> Pack:
    """Codes along the output: a word holds outputs 0, 2, 4, 6, 1, 3, 5, 7 of eight."""

    def along(matrix: Tensor) -> Tensor:
        order = [8 * word + lane for word in range(matrix.shape[0] // 8) for lane in (0, 2, 4, 6, 1, 3, 5, 7)]
        return words(matrix[order].T.tolist(), 4)

    def pack(g: torch.Generator, height: int, width: int) -> Packed:
        size = width if group == -1 else group
        codes, zeros = whole(g, 0, 15, height, width), whole(g, 0, 15, height, width // size)
        zeros = torch.full_like(zeros, 8) if symmetric else zeros
        scales = factors(g, *zeros.shape, dtype=torch.float16)
        parts = {".qweight": along(codes), ".qzeros": along(zeros), ".scales": scales.T}
        return parts, grouped(codes, zeros, scales, [at // size for at in range(width)])

    return pack


def table4(kind: str = "nf4", block: int = 64, nested: int = 0) -> Pack:
    """bitsandbytes in 4 bits; `nested`: how many scales, themselves in 8 bits, share a scale."""

    def pack(g: torch.Generator, height: int, width: int) -> Packed:
        codes, count = whole(g, 0, 15, height * width), -(-height * width // block)
        table = torch.randn(16, generator=g)
        state: dict[str, Any] = {"quant_type": kind, "blocksize": block, "dtype": "bfloat16"}
        state |= {"shape": [height, width]}
        parts = {".weight": nibbles(codes, low_first=False)[:, None], ".weight.quant_map": table}
        largest = factors(g, count)
        parts[".weight.absmax"] = largest
        if nested:
            octets, outer = whole(g, 0, 255, count), factors(g, -(-count // nested))
            inner = torch.randn(256, generator=g)
            state |= {"nested_blocksize": nested, "nested_offset": 0.125, "nested_dtype": "float32"}
            largest = torch.stack([inner[int(o)] * outer[i // nested] + 0.125 for i, o in enumerate(octets)])
            parts |= {".weight.absmax": octets.to(torch.uint8), ".weight.nested_absmax": outer}
            parts |= {".weight.nested_quant_map": inner}
        text = list(json.dumps(state).encode())
        parts[f".weight.quant_state.bitsandbytes__{kind}"] = torch.tensor(text, dtype=torch.uint8)
        flat = [float(table[int(code)] * largest[at // block]) for at, code in enumerate(codes)]
        return parts, torch.tensor(flat).view(height, width)

    return pack


def rows8(g: torch.Generator, height: int, width: int) -> Packed:
    """bitsandbytes in 8 bits: 127 stands for the row's largest number."""
    codes, largest = whole(g, -127, 127, height, width).to(torch.int8), factors(g, height)
    parts = {".weight": codes, ".SCB": largest, ".weight_format": torch.tensor(0, dtype=torch.uint8)}
    return parts, blocks_of(codes, (largest / 127)[:, None], 1, width)


def packed(
    bits: int = 4, group: int = 32, zero: str = "", dtype: torch.dtype = torch.bfloat16, order: bool = False
) -> Pack:
    """compressed-tensors in int32: codes around 0 are stored plus 2 ** (bits - 1). `zero`: packed or int8."""

    def pack(g: torch.Generator, height: int, width: int) -> Packed:
        middle, size = 2 ** (bits - 1), width if group == -1 else group
        codes, count = whole(g, -middle, middle - 1, height, width), -(-width // size)
        zeros = whole(g, -middle, middle - 1, height, count) if zero else torch.zeros(height, count)
        scales = factors(g, height, count, dtype=dtype)
        place = torch.randperm(width, generator=g).tolist() if order else range(width)
        group_of = [at // size for at in place]
        parts = {
            ".weight_packed": words((codes + middle).tolist(), bits),
            ".weight_scale": scales,
            ".weight_shape": torch.tensor([height, width]),
        }
        if zero == "packed":
            parts[".weight_zero_point"] = words((zeros + middle).T.tolist(), bits).T
        elif zero:
            parts[".weight_zero_point"] = zeros.to(torch.int8)
        if order:
            parts[".weight_g_idx"] = torch.tensor(group_of, dtype=torch.int32)
        return parts, grouped(codes, zeros, scales, group_of)

    return pack


def whole8(rows: int | None = 1, columns: int | None = None, zero: bool = False) -> Pack:
    """compressed-tensors' int8, one scale (and zero) per block of `rows` x `columns` (None: all)."""

    def pack(g: torch.Generator, height: int, width: int) -> Packed:
        of_rows, of_columns = rows or height, columns or width
        codes = whole(g, -128, 127, height, width).to(torch.int8)
        scales = factors(g, -(-height // of_rows), -(-width // of_columns), dtype=torch.bfloat16)
        parts = {".weight": codes, ".weight_scale": scales}
        if zero:
            zeros = whole(g, -128, 127, *scales.shape).to(torch.int8)
            parts[".weight_zero_point"] = zeros
            shifts = blocks_of(torch.ones_like(codes), zeros, of_rows, of_columns)
            return parts, blocks_of(codes.float() - shifts, scales, of_rows, of_columns)
        return parts, blocks_of(codes, scales, of_rows, of_columns)

    return pack


def fp4(kind: str, codes_name: str = ".weight_packed", whole_name: str = ".weight_global_scale") -> Pack:
    """NVFP4, whose `whole_name` divides if it is called global, and MXFP4, whose scales are exponents."""

    def pack(g: torch.Generator, height: int, width: int) -> Packed:
        codes, block = whole(g, 0, 15, height, width), 16 if kind == "nvfp4" else 32
        numbers = torch.tensor([[E2M1[int(code)] for code in row] for row in codes])
        parts = {codes_name: nibbles(codes)}
        if kind == "mxfp4":
            exponents = whole(g, 118, 124, height, width // block)
            scales = torch.tensor([[2.0 ** (int(e) - 127) for e in row] for row in exponents])
            parts[".weight_scale"] = exponents.to(torch.uint8)
            return parts, blocks_of(numbers, scales, 1, block)
        stored = (factors(g, height, width // block) * 1000).to(torch.float8_e4m3fn)
        divides = "global" in whole_name
        once = torch.rand((), generator=g) + 0.5
        once = once * 1000 if divides else once / 1000
        parts |= {".weight_scale": stored, whole_name: once.reshape(1) if divides else once}
        scales = stored.float() / once if divides else stored.float() * once
        return parts, blocks_of(numbers, scales, 1, block)

    return pack


def directory(
    path: Path,
    pack: Pack,
    config: dict[str, Any],
    name: str = "qwen3_moe",
    attention: Pack | None = None,
    **changes: Any,
) -> dict[str, Tensor]:
    """A tiny model whose attention and feed-forward matrices are packed; returns what all tensors mean.

    `attention`: another form for its matrices.
    """
    sizes = {"moe_intermediate_size": 64, "num_experts": 2, "num_experts_per_tok": 1, "num_hidden_layers": 1}
    sizes |= {"mlp_only_layers": []}
    tiny(name, **(sizes | changes)).save_pretrained(path)
    generator = torch.Generator().manual_seed(7)
    stored, meant = {}, {}
    for full, tensor in load_file(path / "model.safetensors").items():
        if full.endswith("_proj.weight"):
            chosen = attention if attention is not None and "self_attn" in full else pack
            parts, meant[full] = chosen(generator, *tensor.shape)
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
