"""Activations as whole numbers: how exactly they are held, and what products with them are."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from coterie.native import digit_products, digits, layout
from coterie.native.layers import matrix, product
from coterie.native.program import Rows, StepProgram
from coterie.native.runner import run
from coterie.nn.quantised_tensor import QuantisedTensor

pytestmark = pytest.mark.skipif(not digits.supported(), reason="the processor does not multiply bytes")


def executed(program: StepProgram, num_tokens: int) -> None:
    table = program.table()
    context = torch.zeros(layout.CONTEXT, dtype=torch.int64)
    context[layout.TOKENS], context[layout.THREADS] = num_tokens, 1
    context[layout.OPS], context[layout.NUM_OPS] = table.data_ptr(), len(table)
    run(context.data_ptr())


def rows(program: StepProgram, tensor: Tensor) -> Rows:
    return Rows(program.own(tensor), 4 * tensor.shape[1], tensor.shape[1])


def times(held: QuantisedTensor, x: Tensor) -> Tensor:
    """`x W^T` by the native step."""
    program, y = StepProgram(len(x)), torch.full((len(x), held.shape[0]), 7.0)
    weight = matrix(program, held)
    assert weight.kind in digits.DIGIT_KINDS
    product(program, weight, rows(program, x), rows(program, y))
    executed(program, len(x))
    return y


def rounded(bits: int, block: int, inputs: int, outputs: int = 19) -> QuantisedTensor:
    held = QuantisedTensor((outputs, inputs), bits, block)
    held.store(torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(1)))
    return held


def uneven(num_rows: int, inputs: int, seed: int = 0) -> Tensor:
    """Numbers of very different sizes, some of them outliers of their block."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(num_rows, inputs, generator=generator)
    return x * torch.exp2(torch.randint(-40, 40, x.shape, generator=generator).float())


@pytest.mark.parametrize("largest", [1.0, 1.9921, 1.995, 1.9999999, 3e38, 1e-28])
def test_a_number_is_held_to_a_part_of_the_largest_of_its_unit(largest: float) -> None:
    x = torch.randn(1, 128, generator=torch.Generator().manual_seed(2)).clamp(-1, 1) * largest
    x[0, 5], x[0, 100] = largest, -largest
    program, out = StepProgram(1), torch.zeros(1, 2 * digits.UNIT_BYTES, dtype=torch.uint8)
    read = rows(program, x)
    program.add(
        digit_products.digits, read.address, read.stride, 128, 4, 64, program.own(out), out.shape[1], 0
    )
    executed(program, 1)
    for unit, numbers in zip(out[0].view(2, -1), x[0].view(2, 64), strict=True):
        parts = unit[: 3 * 64].view(torch.int8).view(3, 64).long()
        whole = parts[0] * 65536 + parts[1] * 256 + parts[2]
        power = unit[3 * 64 + 64 :][:4].view(torch.float32)
        error = (whole.double() * power.double() - numbers.double()).abs().max()
        assert error <= 1.005 * 2.0**-23 * numbers.abs().max()


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(("block", "inputs"), [(64, 64), (64, 192), (128, 384), (192, 192)])
def test_a_product_is_that_of_the_widened_weights(bits: int, block: int, inputs: int) -> None:
    held, x = rounded(bits, block, inputs), uneven(3, inputs)
    exact = held.dequantise().double()
    # The rounding of activations, and of one sum for each unit, its scale and the sum of those.
    largest = x.view(3, -1, 64).abs().amax(-1, keepdim=True).expand(-1, -1, 64).reshape(3, inputs).double()
    bound = (1.005 * 2.0**-23 + (4 + inputs / 64) * 2.0**-24) * largest @ exact.abs().T
    assert bool(((times(held, x).double() - x.double() @ exact.T).abs() <= bound).all())


@pytest.mark.parametrize("bits", [4, 8])
def test_extreme_codes_do_not_overflow(bits: int) -> None:
    """Every code and every digit at its bounds, with signs that add up."""
    held = rounded(bits, 64, 64)
    least = -(2 ** (bits - 1))
    held.codes.fill_(0 if bits == 4 else least)
    held.scales.fill_(1.0)
    for number in (1.984375, -1.984375, 1.0):  # a first digit of 127 and -127
        x = torch.full((1, 64), number)
        assert torch.equal(times(held, x), torch.full((1, 19), 64.0 * least) * x[0, 0])


@pytest.mark.parametrize("bits", [4, 8])
def test_together_equals_alone(bits: int) -> None:
    held, x = rounded(bits, 64, 192), uneven(7, 192)
    together = times(held, x)
    for row in range(7):
        assert torch.equal(times(held, x[row : row + 1].clone())[0], together[row])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_is_none_is_seen_in_the_result(bad: float) -> None:
    held, x = rounded(8, 64, 128), uneven(2, 128)
    x[1, 70] = bad
    found = times(held, x)
    assert found[0].isfinite().all() and found[1].isnan().all()


def test_products_of_the_same_rows_share_their_digits() -> None:
    program, x = StepProgram(1), torch.zeros(1, 64)
    read, held = rows(program, x), rounded(4, 64, 64)
    for _ in range(2):
        product(program, matrix(program, held), read, program.rows(19))
    product(program, matrix(program, rounded(8, 64, 64)), read, program.rows(19))
    product(program, matrix(program, rounded(4, 64, 64, 64)), program.rows(64), read)
    product(program, matrix(program, held), read, program.rows(19))
    made = [row for row in program.ops if row[0] == program.ops[0][0]]
    assert len(made) == 4, "one for each width of codes, for other rows, and once these were written to"
