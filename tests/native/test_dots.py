"""Products in blocks of every shape: the same bits, whatever is multiplied together."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from coterie.jit.compiled import fast
from coterie.native.dots import dot
from coterie.native.vectors import BF16, F32
from tests.arithmetic import assert_close

ROWS, TOKENS, INPUTS = 8, 4, 75  # of these eleven numbers fill no vector


def blocks(kind: int, rows: int, tokens: int):  # type: ignore[no-untyped-def]
    """All outputs, `rows` rows of weights and `tokens` tokens at a time."""

    @fast
    def run(w, w_stride, x, y):  # type: ignore[no-untyped-def]
        for o in range(0, ROWS, rows):
            for t in range(0, TOKENS, tokens):
                dot(kind, rows, tokens, w + o * w_stride, w_stride, 0, 0, 0, 1, x + t * INPUTS * 4,
                    INPUTS * 4, INPUTS, y + (t * ROWS + o) * 4, ROWS * 4, 4, np.float32(1), 0)  # fmt: skip

    return run


def outputs(kind: int, weights: Tensor, x: Tensor, rows: int, tokens: int) -> Tensor:
    y = torch.full((TOKENS, ROWS), float("nan"))
    stride = weights.stride(0) * weights.element_size()
    blocks(kind, rows, tokens)(weights.data_ptr(), stride, x.data_ptr(), y.data_ptr())
    return y


@pytest.mark.parametrize(("kind", "dtype"), [(F32, torch.float32), (BF16, torch.bfloat16)])
def test_blocks_of_narrow_and_wide_processors_give_the_same_bits(kind: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(2)
    weights = torch.randn(ROWS, INPUTS, generator=generator).to(dtype)
    x = torch.randn(TOKENS, INPUTS, generator=generator)
    expected = outputs(kind, weights, x, 1, 1)
    assert_close(expected, x @ weights.float().T, INPUTS)
    for rows, tokens in ((4, 4), (4, 2), (8, 1), (1, 4), (2, 2), (4, 1)):
        assert torch.equal(outputs(kind, weights, x, rows, tokens), expected)
