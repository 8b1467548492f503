"""RMSNorm of N rows of D numbers, forward and backward."""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import math

import numpy as np

from coterie.jit.compiled import fast
from coterie.jit.primitives import doubles, floats, ints, shorts
from coterie.nn.passes.numbers import BLOCKS, FIRST, KIND, ROWS, real, share, stored


@fast
def _forward(x, weight, eps, late, y):
    total = np.float32(0)
    width = y.shape[0]
    for j in range(width):
        v = real(x[j])
        total += v * v
    scale = np.float32(1) / np.float32(math.sqrt(total / np.float32(width) + eps))
    if late != 0:
        for j in range(width):
            y[j] = stored(real(x[j]) * scale * weight[j], y)
    else:
        for j in range(width):
            y[j] = stored(real(stored(real(x[j]) * scale, y)) * weight[j], y)
    return scale


@fast
def _backward(x, weight, scale, grad, grad_x, grad_weight):
    total = np.float32(0)
    width = grad_x.shape[0]
    for j in range(width):
        g, normed = real(grad[j]), real(x[j]) * scale
        grad_weight[j] += g * normed
        total += g * weight[j] * normed
    mean = total / np.float32(width)
    for j in range(width):
        grad_x[j] = stored((real(grad[j]) * weight[j] - real(x[j]) * scale * mean) * scale, grad_x)


def norm(context: int) -> None:
    """D, whether rounding is late, eps (float64); addresses of: x, weight (float32), result, scales (N).

    Unless it is late, rounding comes before the weight too.
    """
    c = ints(context, FIRST + 7)
    width, late, x, weight, y, scales = (
        c[FIRST],
        c[FIRST + 1],
        c[FIRST + 3],
        c[FIRST + 4],
        c[FIRST + 5],
        c[FIRST + 6],
    )
    eps = np.float32(doubles(context + 8 * (FIRST + 2), 1)[0])
    factors, scale_of = floats(weight, width), floats(scales, c[ROWS])
    first, last = share(context, c[ROWS])
    for r in range(first, last):
        if c[KIND] == 0:
            row = 4 * r * width
            scale_of[r] = _forward(floats(x + row, width), factors, eps, late, floats(y + row, width))
        else:
            row = 2 * r * width
            scale_of[r] = _forward(shorts(x + row, width), factors, eps, late, shorts(y + row, width))


def norm_gradient(context: int) -> None:
    """D; addresses of: x, weight, scales, gradient of the result, gradient of x, of the weight (BLOCKS, D).

    The weight's gradient is left as one sum for each block of rows.
    """
    c = ints(context, FIRST + 7)
    width, x, weight, scales = c[FIRST], c[FIRST + 1], c[FIRST + 2], c[FIRST + 3]
    grad, grad_x, sums = c[FIRST + 4], c[FIRST + 5], c[FIRST + 6]
    num_rows = c[ROWS]
    factors, scale_of = floats(weight, width), floats(scales, num_rows)
    first, last = share(context, BLOCKS)
    for block in range(first, last):
        grad_weight = floats(sums + 4 * block * width, width)
        for j in range(width):
            grad_weight[j] = np.float32(0)
        for r in range(num_rows * block // BLOCKS, num_rows * (block + 1) // BLOCKS):
            if c[KIND] == 0:
                row = 4 * r * width
                _backward(
                    floats(x + row, width), factors, scale_of[r],
                    floats(grad + row, width), floats(grad_x + row, width), grad_weight,
                )  # fmt: skip
            else:
                row = 2 * r * width
                _backward(
                    shorts(x + row, width), factors, scale_of[r],
                    shorts(grad + row, width), shorts(grad_x + row, width), grad_weight,
                )  # fmt: skip
