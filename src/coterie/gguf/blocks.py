"""The number formats of a GGUF file: the choice per tensor, packing of rows, bounds on the packing error.

R rows, I numbers in a row, both of one tensor flattened to two dimensions (the row is the tensor's last
dimension).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from coterie.checkpoints.gguf_file.blocks import NotFiniteError, unpack_blocks
from coterie.checkpoints.gguf_file.types import BY_NAME
from coterie.config import CheckpointError
from coterie.gguf.k_quants import K_TYPES, pack_k
from coterie.gguf.mixes import MIXES, MixFacts, mixed_type
from coterie.llamacpp.slot import EXACT

Array = npt.NDArray[Any]

# Values of `quant`, with llama.cpp's number for such files (`general.file_type`).
FILE_TYPES = {"f32": 0, "f16": 1, "bf16": 32, "q8_0": 7, "q4_0": 2, "mxfp4": 38}
FILE_TYPES |= {"q2_k": 10, "q3_k_s": 11, "q3_k_m": 12, "q3_k_l": 13, "q4_k_s": 14, "q4_k_m": 15}
FILE_TYPES |= {"q5_k_s": 16, "q5_k_m": 17, "q6_k": 18}
_BLOCK = 32
_BLOCKED = ("Q8_0", "Q4_0", "MXFP4")
_PACKED = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1")
# Numbers of a group, largest code, largest whole number that scales a group, and whether codes have a sign.
_K_FORMS = {
    "Q2_K": (16, 3, 15, False),
    "Q3_K": (16, 4, 32, True),
    "Q4_K": (32, 15, 63, False),
    "Q5_K": (32, 31, 63, False),
    "Q6_K": (16, 32, 128, True),
}
# Numbers packed at a time, so that a packer's extra memory stays small for every tensor.
CHUNK = 1 << 20
# Between the magnitudes 0, 0.5, 1, 1.5, 2, 3, 4, 6 of a four-bit float; a number in the middle goes down.
_MIDDLES = np.array([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0], np.float32)
_SMALLEST_HALF = 2.0**-24


@dataclass(frozen=True)
class Choice:
    """The type of one tensor, and the reason where it is not the type asked for."""

    type: str
    reason: str = ""


def choose(name: str, shape: tuple[int, ...], quant: str, facts: MixFacts) -> Choice:
    """The type of a tensor: norms, biases, sinks and routers in F32, matrices as `quant` asks.

    `mxfp4` is for experts, so everything else is Q8_0 there; embedding and head stay Q8_0 in a Q4_0 file.
    Mixes such as `q4_k_m` choose by `facts` of the model.
    """
    if len(shape) == 1 or name.endswith(".bias"):
        return Choice("F32", "norms, biases, sinks and factors stay exact")
    if name.endswith("ffn_gate_inp.weight"):
        return Choice("F32", "routers stay exact: a small error chooses other experts")
    if name.endswith(EXACT):
        return Choice("F32", "norms, decays and convolutions of a few numbers stay exact")
    if quant in MIXES:
        return Choice(*mixed_type(name, shape[-1], quant, facts))
    wanted, reason = quant.upper(), ""
    if quant == "mxfp4" and "_exps." not in name:
        wanted, reason = "Q8_0", "mxfp4 is for experts"
    elif quant == "q4_0" and name in ("token_embd.weight", "output.weight"):
        wanted, reason = "Q8_0", "the embedding and the head lose most in four bits"
    if wanted in _BLOCKED and shape[-1] % _BLOCK:
        return Choice("F16", f"rows of {shape[-1]} numbers do not fill blocks of {_BLOCK}")
    return Choice(wanted, reason)


def pack(rows_RI: Array, kind: str, name: str) -> Array:
    """Rows of fp32 as the bytes of type `kind`.

    Errors: `CheckpointError` for numbers that are not finite, or too large for F16.
    """
    import gguf

    largest = float(np.abs(rows_RI).max(initial=0.0))
    if not np.isfinite(largest):
        raise CheckpointError(f"'{name}' holds numbers that are not finite; such a model cannot be exported")
    if kind == "F16" and largest >= 65520:
        raise CheckpointError(
            f"'{name}' reaches {largest:.3g}, more than F16 holds; export with --quant bf16"
        )
    rows_RI = np.ascontiguousarray(rows_RI, np.float32)
    if kind == "MXFP4":
        return _mxfp4(rows_RI)
    if kind in K_TYPES:
        packed = pack_k(torch.from_numpy(rows_RI), kind).numpy()
        return _with_finite_scales(packed, kind, name, largest)
    if kind not in _PACKED:
        raise CheckpointError(f"'{name}' is of type {kind}, which is read here and not written")
    return np.ascontiguousarray(gguf.quants.quantize(rows_RI, gguf.GGMLQuantizationType[kind]))


def _with_finite_scales(packed: Array, kind: str, name: str, largest: float) -> Array:
    try:
        block = BY_NAME[kind]
        blocks = torch.from_numpy(packed).view(-1, block.nbytes)
        unpack_blocks(blocks, kind, torch.empty(len(blocks), block.block))
    except NotFiniteError:
        raise CheckpointError(
            f"'{name}' reaches {largest:.3g}, more than the scales of {kind} hold; export with --quant bf16"
        ) from None
    return packed


def _mxfp4(rows_RI: Array) -> Array:
    """The same bytes as `gguf.quants.quantize` for MXFP4, many times faster.

    Numbers find their step by a search among the midpoints of the steps. A block is the exponent of its
    scale, then 16 bytes: numbers 0-15 in the low halves, 16-31 in the high halves (OCP Microscaling Formats
    1.0).
    """
    blocks = rows_RI.reshape(-1, _BLOCK)
    size = np.abs(blocks)
    largest = size.max(-1, keepdims=True)
    exponent = np.where(largest > 0, np.frexp(largest)[1] - 3, -127).clip(-127, 127)
    codes = np.searchsorted(_MIDDLES, np.ldexp(size, -exponent)).astype(np.uint8)
    codes |= np.where((blocks < 0) & (codes > 0), np.uint8(8), np.uint8(0))
    halves = codes[:, : _BLOCK // 2] | (codes[:, _BLOCK // 2 :] << np.uint8(4))
    return np.concatenate(((exponent + 127).astype(np.uint8), halves), axis=-1).reshape(len(rows_RI), -1)


def row_bytes(length: int, kind: str) -> int:
    """Bytes of one row of `length` numbers."""
    found = BY_NAME[kind]
    return length // found.block * found.nbytes


def allowed_error(rows_RI: Array, kind: str) -> Array:
    """The largest difference of each number of (R, I) from its packed form, (R, I).

    Blocks of 32 share a scale taken from their largest magnitude a. Q8_0 rounds to multiples of a / 127. Q4_0
    rounds to multiples of a / 8 and clips numbers of the opposite sign by at most one step, Q5_0 likewise of
    a / 16; Q4_1 and Q5_1 divide the spread of a block into 15 or 31 steps. MXFP4's steps and
    clipping are at most a / 4. Scales are stored as F16, MXFP4's as powers of two.
    """
    size = np.abs(rows_RI.astype(np.float64))
    if kind == "F32":
        return np.zeros_like(size)
    if kind in ("F16", "BF16"):
        return size * 2.0**-11 + _SMALLEST_HALF / 2 if kind == "F16" else size * 2.0**-8
    if kind in _K_FORMS:
        return _k_error(rows_RI.astype(np.float64), *_K_FORMS[kind])
    blocks = rows_RI.astype(np.float64).reshape(len(size), -1, _BLOCK)
    largest = np.abs(blocks).max(-1)
    if kind in ("Q4_1", "Q5_1"):
        top = 15 if kind == "Q4_1" else 31
        spread = blocks.max(-1) - blocks.min(-1)
        bound = spread * (0.5 / top + 2.0**-11) + largest * 2.0**-11 + (top + 1) * _SMALLEST_HALF / 2
    elif kind == "Q8_0":
        bound = largest * (0.5 / 127 + 2.0**-11) + 127 * _SMALLEST_HALF / 2
    elif kind in ("Q4_0", "Q5_0"):
        top = 8 if kind == "Q4_0" else 16
        bound = largest * (1 / top + 2.0**-11) + top * _SMALLEST_HALF / 2
    else:
        bound = largest / 4
    return np.repeat(bound * (1 + 1e-6), _BLOCK, axis=-1)


def _k_error(rows_RI: Array, group: int, top: int, shared: int, signed: bool) -> Array:
    """The bound of `allowed_error` for a K type.

    A scale that is fitted by least squares may clip the ends of a group by a few steps. It is then rounded
    to a multiple of its block's largest scale.
    """
    groups = rows_RI.reshape(len(rows_RI), -1, 256 // group, group)
    if signed:
        spread = np.abs(groups).max(-1)
    else:
        spread = groups.max(-1).clip(min=0) - groups.min(-1).clip(max=0)
    bound = 5 * spread / top + 2 * spread.max(-1, keepdims=True) / shared
    bound += (top + 1) * shared * _SMALLEST_HALF / 2
    return np.repeat(bound.reshape(len(rows_RI), -1), group, axis=-1)
