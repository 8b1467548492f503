"""Linear layers and experts as operations: plain, quantised, with factors, partly trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from coterie.native import digit_products, digits, matrices, odd_blocks, routing, rows
from coterie.native.odd_blocks import ODD_INT4, ODD_INT4_F32, ODD_INT8, ODD_INT8_F32
from coterie.native.program import CannotPlan, Made, Rows, StepProgram
from coterie.native.vectors import BF16, F32, INT4, INT4_F32, INT8, INT8_F32
from coterie.nn.chosen_experts import SubsetExpertLinear
from coterie.nn.experts import ExpertLinear
from coterie.nn.linear import Linear
from coterie.nn.lora import LoRAExpertLinear, LoRALinear, LoRARouter
from coterie.nn.norm import RMSNorm
from coterie.nn.quantised_layers import QuantisedExpertLinear, QuantisedLinear
from coterie.nn.quantised_tensor import QuantisedTensor
from coterie.nn.router import Router
from coterie.nn.stored_experts import StoredExpertLinear

_PRODUCTS = {
    F32: (matrices.product_f32, matrices.experts_f32),
    BF16: (matrices.product_bf16, matrices.experts_bf16),
    INT8: (matrices.product_int8, matrices.experts_int8),
    INT8_F32: (matrices.product_int8_f32, matrices.experts_int8_f32),
    INT4: (matrices.product_int4, matrices.experts_int4),
    INT4_F32: (matrices.product_int4_f32, matrices.experts_int4_f32),
    digits.INT8_DIGITS: (digit_products.product_int8, digit_products.experts_int8),
    digits.INT8_F32_DIGITS: (digit_products.product_int8_f32, digit_products.experts_int8_f32),
    digits.INT4_DIGITS: (digit_products.product_int4, digit_products.experts_int4),
    digits.INT4_F32_DIGITS: (digit_products.product_int4_f32, digit_products.experts_int4_f32),
    ODD_INT8: (odd_blocks.product_int8, odd_blocks.experts_int8),
    ODD_INT8_F32: (odd_blocks.product_int8_f32, odd_blocks.experts_int8_f32),
    ODD_INT4: (odd_blocks.product_int4, odd_blocks.experts_int4),
    ODD_INT4_F32: (odd_blocks.product_int4_f32, odd_blocks.experts_int4_f32),
}
_EXPERTS = (ExpertLinear, QuantisedExpertLinear, LoRAExpertLinear, SubsetExpertLinear, StoredExpertLinear)
NAMES = {
    F32: "f32", BF16: "bf16", INT8: "int8", INT8_F32: "int8", INT4: "int4", INT4_F32: "int4",
    digits.INT8_DIGITS: "int8", digits.INT8_F32_DIGITS: "int8", digits.INT4_DIGITS: "int4",
    digits.INT4_F32_DIGITS: "int4",
    ODD_INT8: "int8 in odd blocks", ODD_INT8_F32: "int8 in odd blocks", ODD_INT4: "int4 in odd blocks",
    ODD_INT4_F32: "int4 in odd blocks",
}  # fmt: skip
# Kinds by bits, whether scales are bfloat16, and numbers of a block: 0 for blocks that 32 does not divide or
# that do not divide the row.
CODED = {
    (8, True, 32): INT8, (8, False, 32): INT8_F32, (4, True, 32): INT4, (4, False, 32): INT4_F32,
    (8, True, 0): ODD_INT8, (8, False, 0): ODD_INT8_F32, (4, True, 0): ODD_INT4, (4, False, 0): ODD_INT4_F32,
    (8, True, digits.UNIT): digits.INT8_DIGITS, (8, False, digits.UNIT): digits.INT8_F32_DIGITS,
    (4, True, digits.UNIT): digits.INT4_DIGITS, (4, False, digits.UNIT): digits.INT4_F32_DIGITS,
}  # fmt: skip


@dataclass(frozen=True)
class StoredWeight:
    """A weight `(*, O, I)` where it lies: addresses and byte strides of its rows, scales and experts."""

    kind: int
    outputs: int
    inputs: int
    at: int
    stride: int
    scales: int = 0
    scale_stride: int = 0
    block: int = 1
    expert_stride: int = 0
    expert_scale_stride: int = 0

    @property
    def fields(self) -> tuple[int, ...]:
        """As a product's operation holds them."""
        return self.at, self.stride, self.scales, self.scale_stride, self.block, self.outputs


def matrix(program: StepProgram, weight: Tensor | QuantisedTensor) -> StoredWeight:
    """A weight of the model, read in place."""
    if isinstance(weight, QuantisedTensor):
        return _coded(program, weight)
    kinds = {torch.float32: F32, torch.bfloat16: BF16}
    if weight.dtype not in kinds or weight.stride(-1) != 1:
        raise CannotPlan(f"a {weight.dtype} matrix of strides {tuple(weight.stride())}")
    size = weight.element_size()
    expert = weight.stride(0) * size if weight.dim() == 3 else 0
    at, stride = program.of(weight), weight.stride(-2) * size
    return StoredWeight(
        kinds[weight.dtype], weight.shape[-2], weight.shape[-1], at, stride, expert_stride=expert
    )


def _coded(program: StepProgram, weight: QuantisedTensor) -> StoredWeight:
    block, inputs = weight.block, weight.shape[-1]
    form = 0 if block % 32 != 0 or inputs % block != 0 else 32
    if form and block % digits.UNIT == 0 and digits.supported():
        form = digits.UNIT
    codes, scales = weight.codes, weight.scales
    if scales.dtype == torch.bfloat16:
        kind = CODED[weight.bits, True, form]
        scales_at = program.of(scales)
    else:
        kind = CODED[weight.bits, False, form]
        if scales.dtype != torch.float32:
            program.copied_from(scales)
        scales = scales.float().contiguous()
        scales_at = program.own(scales)
    size, row = scales.element_size(), codes.stride(-3) * codes.element_size()
    experts = len(weight.shape) == 3
    return StoredWeight(
        kind, weight.shape[-2], inputs, program.of(codes), row, scales_at, scales.stride(-2) * size, block,
        codes.stride(0) * codes.element_size() if experts else 0, scales.stride(0) * size if experts else 0,
    )  # fmt: skip


def _read_by(program: StepProgram, weight: StoredWeight, x: Rows, order: Sorted | None = None) -> Rows:
    """What a weight's product reads: x, or its digits."""
    program.kinds.add(weight.kind)
    if weight.kind not in digits.DIGIT_KINDS:
        return x
    return _digits(program, x, digits.DIGIT_KINDS[weight.kind][0], weight.block, order)


def _digits(program: StepProgram, x: Rows, bits: int, block: int, order: Sorted | None) -> Rows:
    """The digits of x: those of the operation before where it read the same."""
    form = x, bits, block
    if program.digits is not None and program.digits[0] == form:
        return program.digits[1]
    count, most = (0, program.most) if order is None else (order.count, order.most)
    stride = x.width // digits.UNIT * digits.UNIT_BYTES
    made = Rows(program.own(torch.zeros(most, stride, dtype=torch.uint8)), stride, x.width)
    program.add(
        digit_products.digits, x.address, x.stride, x.width, bits, block, made.address, stride, count,
        serial=order is None,
    )  # fmt: skip
    program.digits = form, made
    return made


def _keep_digits(program: StepProgram, made: Made | None, y: Rows) -> None:
    """A product changes nothing but y, so that what was made before it still holds."""
    if made is not None and made[0][0].address != y.address:
        program.digits = made


def product(
    program: StepProgram,
    weight: StoredWeight,
    x: Rows,
    y: Rows,
    factor: float = 1.0,
    add: bool = False,
    bias: tuple[int, int] = (0, 0),
    barrier: bool = True,
) -> None:
    """`y (+)= factor * x W^T`, or `bias + factor * x W^T`."""
    read = _read_by(program, weight, x)
    made = program.digits
    program.add(
        _PRODUCTS[weight.kind][0], read.address, read.stride, weight.inputs, *weight.fields, y.address,
        y.stride, float(factor), int(add), *bias, serial=False, barrier=barrier,
    )  # fmt: skip
    _keep_digits(program, made, y)


def linear(
    program: StepProgram,
    layer: Linear | Router,
    x: Rows,
    y: Rows,
    factor: float = 1.0,
    add: bool = False,
    barrier: bool = True,
) -> None:
    """`y (+)= factor * layer(x)`."""
    if type(layer) not in (Linear, QuantisedLinear, Router, LoRALinear, LoRARouter):
        raise CannotPlan(f"a layer of kind {type(layer).__name__}")
    bias = (0, 0) if layer.bias is None else program.vector(layer.bias)
    dora = isinstance(layer, LoRALinear | LoRARouter) and layer.lora_magnitude is not None
    if not dora and (layer.bias is None or (not add and factor == 1.0)):
        _unbiased(program, layer, x, y, factor, add, bias, barrier)
        return
    # A bias, and DoRA's factor, cannot take part in a sum that has begun.
    own = program.rows(y.width)
    _unbiased(program, layer, x, own)
    if dora:
        _scale_rows(program, layer, own)
    if layer.bias is not None:
        program.add(rows.shift_columns, own.address, own.stride, own.width, *bias)
    copy(program, own, y, factor, add)


def _unbiased(
    program: StepProgram,
    layer: Linear | Router,
    x: Rows,
    y: Rows,
    factor: float = 1.0,
    add: bool = False,
    bias: tuple[int, int] = (0, 0),
    barrier: bool = True,
) -> None:
    """The matrix and its factors, without DoRA's lengths."""
    quantised = getattr(layer, "quantised", None)
    weight = matrix(program, layer.weight if quantised is None else quantised)
    if not isinstance(layer, LoRALinear | LoRARouter):
        product(program, weight, x, y, factor, add, bias, barrier)
        return
    product(program, weight, x, y, factor, add, bias)
    thin = program.rows(layer.rank)
    product(program, matrix(program, layer.lora_A), x, thin)
    product(program, matrix(program, layer.lora_B), thin, y, factor * layer.scale, True)


def _scale_rows(program: StepProgram, layer: Linear | Router, y: Rows) -> None:
    assert isinstance(layer, LoRALinear | LoRARouter)
    factors = layer.row_factors()
    assert factors is not None and layer.lora_magnitude is not None
    program.copied_from(layer.lora_A, layer.lora_B, layer.lora_magnitude)
    at = program.own(factors.detach().float().contiguous())
    program.add(rows.scale_columns, y.address, y.stride, y.width, at)


def copy(program: StepProgram, x: Rows, y: Rows, factor: float = 1.0, add: bool = False) -> None:
    """`y (+)= factor * x`."""
    program.add(rows.copy, x.address, x.stride, x.width, y.address, y.stride, float(factor), int(add))


def norm(
    program: StepProgram, layer: RMSNorm | None, x: Rows, y: Rows, parts: int = 1, eps: float = 0.0
) -> None:
    """`y = layer(x)` on each of `parts` equal parts of a row; without a layer, an RMS of `eps` alone."""
    address, kind = (0, 0) if layer is None else program.vector(layer.weight)
    plus_one = float(layer is not None and layer.plus_one)
    program.add(
        rows.norm, x.address, x.stride, parts, x.width // parts, address, kind, plus_one,
        float(eps if layer is None else layer.eps), y.address, y.stride,
    )  # fmt: skip


@dataclass(frozen=True)
class Sorted:
    """Where a layer's routed rows are: starts of the experts' rows, experts that have any, their number."""

    starts: int
    active: int
    num_active: int
    count: int  # address of the number of rows
    most: int


def experts(program: StepProgram, layer: ExpertLinear, x: Rows, y: Rows, order: Sorted) -> None:
    """`y = layer(x)` on rows sorted by expert."""
    if type(layer) not in _EXPERTS:
        raise CannotPlan(f"experts of kind {type(layer).__name__}")
    table = 0
    if isinstance(layer, StoredExpertLinear):
        stored, places = layer.places
        weight, table = matrix(program, stored), program.of(places)
    else:
        quantised = getattr(layer, "quantised", None)
        weight = matrix(program, layer.weight if quantised is None else quantised)
    bias, bias_stride = (0, 0), 0
    if layer.bias is not None:
        whole: Tensor = layer.bias
        if isinstance(layer, SubsetExpertLinear) and layer.subset_bias is not None:
            program.copied_from(layer.bias, layer.subset_bias)
            whole = layer.bias.detach().index_copy(0, layer.chosen_S, layer.subset_bias.detach())
            program.own(whole)
        bias, bias_stride = program.vector(whole), whole.stride(0) * whole.element_size()
    if isinstance(layer, SubsetExpertLinear):
        others = [-1 if e in layer.slots else e for e in range(layer.num_experts)]
        _experts(program, weight, x, y, order, table=_places(program, others), bias=bias, step=bias_stride)
        slices, own = matrix(program, layer.subset_weight), _slots(program, layer)
        _experts(program, slices, x, y, order, table=own, add=layer.bias is not None)
        return
    if isinstance(layer, LoRAExpertLinear):
        _adapted_experts(program, layer, weight, x, y, order, bias, bias_stride)
    else:
        _experts(program, weight, x, y, order, table=table, bias=bias, step=bias_stride)


def _adapted_experts(
    program: StepProgram,
    layer: LoRAExpertLinear,
    weight: StoredWeight,
    x: Rows,
    y: Rows,
    order: Sorted,
    bias: tuple[int, int],
    step: int,
) -> None:
    gains = layer.gains()
    _experts(program, weight, x, y, order, bias=(0, 0) if gains is not None else bias, step=step)
    thin, own = program.rows(layer.rank, order.most), _slots(program, layer)
    _experts(program, matrix(program, layer.lora_A), x, thin, order, table=own)
    _experts(program, matrix(program, layer.lora_B), thin, y, order, layer.scale, True, own)
    if gains is not None:
        assert layer.lora_magnitude is not None
        program.copied_from(layer.lora_A, layer.lora_B, layer.lora_magnitude)
        program.add(
            routing.scale_experts, y.address, y.stride, y.width, order.starts, order.active, order.num_active,
            program.own(gains.detach().float().contiguous()), *bias, step,
        )  # fmt: skip


def _slots(program: StepProgram, layer: LoRAExpertLinear | SubsetExpertLinear) -> int:
    return _places(program, [layer.slots.get(e, -1) for e in range(layer.num_experts)])


def _places(program: StepProgram, places: Sequence[int]) -> int:
    return program.own(torch.tensor(places, dtype=torch.int64))


def _experts(
    program: StepProgram,
    weight: StoredWeight,
    x: Rows,
    y: Rows,
    order: Sorted,
    factor: float = 1.0,
    add: bool = False,
    table: int = 0,
    bias: tuple[int, int] = (0, 0),
    step: int = 0,
) -> None:
    read = _read_by(program, weight, x, order)
    made = program.digits
    program.add(
        _PRODUCTS[weight.kind][1], read.address, read.stride, weight.inputs, *weight.fields, y.address,
        y.stride, float(factor), int(add), *bias, weight.expert_stride, weight.expert_scale_stride, step,
        order.starts, order.active, order.num_active, table, serial=False,
    )  # fmt: skip
    _keep_digits(program, made, y)
