"""FP8 in its published spellings: DeepSeek's blocks, Mistral's one scale per tensor, FBGEMM's one per row.

Every spelling multiplies, also `scale_inv`. O rows, I columns of a matrix, E experts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from coterie.checkpoints.quantised.encoded import Decoding, Parts, Shape, by_blocks
from coterie.checkpoints.quantised.finder import Finder
from coterie.config import CheckpointError

FLOATS = ("F32", "BF16", "F16")
EXPONENTS = ("U8", "F8_E8M0")  # a byte e means 2 ** (e - 127)
NUMBERS = ("F8_E4M3", "F8_E5M2")
_SCALES = ("_scale_inv", "_scale")
_OF_LINEAR = (".weight_scale_inv", ".weight_scale", ".scale", ".qscale_weight")
_ACTIVATIONS = (
    ".input_scale", ".activation_scale", ".input_scale_ub", ".qscale_act", "_proj_activation_scale",
    ".k_scale", ".v_scale",
)  # fmt: skip


@dataclass(frozen=True)
class Scaled(Decoding):
    """Numbers of 8 bits times one scale per block of `rows` x `columns`, minus a zero before that, if any.

    Parts: `weight (O, I)`, `scale` with as many numbers as there are blocks, `zero` of the same size.
    `kind`: for `label`. `bits`: of the codes, where these are whole numbers; 0 for FP8.
    """

    rows: int
    columns: int
    kind: str = "fp8"
    bits: int = 0

    @property
    def label(self) -> str:
        """The kind, and what shares a scale."""
        return f"{self.kind}, a scale per {self.rows:,} x {self.columns:,}"

    def decode(self, parts: Parts, shape: Shape) -> Tensor:
        """(O, I) float32."""
        weight = parts["weight"].float()
        if "zero" in parts:
            zeros = parts["zero"].reshape(self._blocks(shape))
            weight = weight - by_blocks(zeros, self.rows, self.columns, shape)
        return weight * by_blocks(self._scales(parts, shape), self.rows, self.columns, shape)

    def grid(self, part: Callable[[str], Tensor | None], shape: Shape) -> tuple[int, int] | None:
        """Of whole numbers without a zero: the codes as they are."""
        zero = part("zero")
        if not self.bits or (self.columns % 2 and self.columns < shape[1]):
            return None
        if zero is not None and bool(zero.any()):
            return None
        return (8 if self.bits > 4 else 4), min(self.columns, shape[1])

    def codes(self, parts: Parts, shape: Shape) -> tuple[Tensor, Tensor]:
        """The stored numbers, and each row's scales."""
        scales = self._scales(parts, shape).repeat_interleave(self.rows, 0)[: shape[0]]
        return parts["weight"], scales

    def _scales(self, parts: Parts, shape: Shape) -> Tensor:
        return exponents(parts["scale"]).reshape(self._blocks(shape))

    def _blocks(self, shape: Shape) -> tuple[int, int]:
        return -(-shape[0] // self.rows), -(-shape[1] // self.columns)


@dataclass(frozen=True)
class ScaledColumns(Decoding):
    """FP8 numbers (I, O) of a transposed matrix, as Llama 4 stores its experts: one `scale` per column."""

    @property
    def label(self) -> str:
        """The kind, and what shares a scale."""
        return "fp8, a scale per output"

    def decode(self, parts: Parts, shape: Shape) -> Tensor:
        """(I, O) float32."""
        return parts["weight"].float() * parts["scale"].float().reshape(1, shape[1])


def exponents(scales: Tensor) -> Tensor:
    """Scales as they are, or the powers of two that bytes mean, float32."""
    if scales.dtype == torch.uint8:
        scales = scales.view(torch.float8_e8m0fnu)
    return scales.float() if scales.dtype == torch.float8_e8m0fnu else scales


def collect(found: Finder) -> None:
    """FP8 as transformers, DeepSeek, Mistral and FBGEMM store it.

    Errors: `CheckpointError` for a tensor without a scale, with two, or with one of another shape.
    """
    block = _block(found)
    found.drop(*_ACTIVATIONS)
    by_column = found.settings.word("quant_method") == "fbgemm_fp8"
    for name, (_, entry) in list(found.entries.items()):
        if entry.dtype not in NUMBERS:
            continue
        scale = _scale_of(found, name)
        if len(entry.shape) not in (2, 3) or 0 in entry.shape:
            raise CheckpointError(f"{found.entries[name][0]}: '{name}' in FP8 is not a matrix: {entry.shape}")
        form: Decoding = ScaledColumns()
        if by_column and len(entry.shape) == 3:
            experts, _, outputs = entry.shape
            found.checked(name, scale, FLOATS, (experts, 1, outputs), (experts, outputs, 1))
        else:
            form = scaled(found, name, scale, entry.shape, block)
        found.add(name, entry.shape, form, weight=name, scale=scale)


def scaled(
    found: Finder,
    name: str,
    scale: str,
    shape: Shape,
    block: tuple[int, int] | None,
    kind: str = "fp8",
    bits: int = 0,
) -> Scaled:
    """The form whose scales have the shape of those in the file: blocks, one per row, or one in all.

    Errors: `CheckpointError` where none has.
    """
    experts, (rows, columns) = shape[:-2], shape[-2:]
    of_blocks = () if block is None else (-(-rows // block[0]), -(-columns // block[1]))
    file, entry = found.place(name, scale)
    found.checked(name, scale, FLOATS + EXPONENTS)
    given = entry.shape[len(experts) :] if entry.shape[: len(experts)] == experts else None
    if block is not None and given == of_blocks:
        return Scaled(*block, kind, bits)
    if given in ((), (1,), (1, 1)):
        return Scaled(rows, columns, kind, bits)
    if given in ((rows,), (rows, 1)):
        return Scaled(1, columns, kind, bits)
    wanted = [*([of_blocks] if block else []), (rows, 1), ()]
    raise CheckpointError(
        f"{file}: '{scale}' has shape {entry.shape}; '{name}' needs "
        + " or ".join(str((*experts, *sizes)) for sizes in wanted)
    )


def _block(found: Finder) -> tuple[int, int] | None:
    settings = found.settings
    if settings.word("expert_dtype", "fp8") != "fp8":
        raise settings.refused(
            f"experts are stored as {settings.word('expert_dtype')}, which is not read here"
        )
    if settings.word("quant_method") == "fbgemm_fp8":
        return None
    block = settings.values.get("weight_block_size", [128, 128])
    if block is None:
        return None
    if not isinstance(block, list) or len(block) != 2 or not all(type(n) is int and n > 0 for n in block):
        raise CheckpointError(f"{settings.where}: weight_block_size is {block!r}; two sizes are expected")
    return block[0], block[1]


def _scale_of(found: Finder, name: str) -> str:
    if name.endswith(".weight"):
        named = [name.removesuffix(".weight") + ending for ending in _OF_LINEAR]
    else:
        named = [name + ending for ending in _SCALES]
    there = [scale for scale in named if scale in found.entries]
    if len(there) > 1:
        raise CheckpointError(
            f"{found.entries[name][0]}: '{name}' has two scales, '{there[0]}' and '{there[1]}'"
        )
    if not there:
        found.place(name, named[0])
    return there[0]
