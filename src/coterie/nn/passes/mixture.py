"""The backward pass of a mixture's weighted sum: routed rows, D wide, sorted by expert."""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import numpy as np

from coterie.jit.compiled import fast
from coterie.jit.primitives import floats, ints, shorts
from coterie.nn.passes.numbers import FIRST, KIND, ROWS, real, share, stored


@fast
def _row(grad, y, weight, out):
    total = np.float32(0)
    for j in range(out.shape[0]):
        g = real(grad[j])
        total += g * real(y[j])
        out[j] = stored(g * weight, out)
    return total


def weighted_rows(context: int) -> None:
    """D; addresses: gradient (T, D), y (R, D), weights (T K), token and slot of each row, result, dots (R).

    `result[r] = weights[slot[r]] * gradient[token[r]]`, `dots[r] = gradient[token[r]] . y[r]`.
    """
    c = ints(context, FIRST + 8)
    width, grad, y, weights = c[FIRST], c[FIRST + 1], c[FIRST + 2], c[FIRST + 3]
    tokens, slots, out, dots = c[FIRST + 4], c[FIRST + 5], c[FIRST + 6], c[FIRST + 7]
    num_rows = c[ROWS]
    token_of, slot_of, dot_of = ints(tokens, num_rows), ints(slots, num_rows), floats(dots, num_rows)
    first, last = share(context, num_rows)
    for r in range(first, last):
        token, slot = token_of[r], slot_of[r]
        if c[KIND] == 0:
            row = 4 * width
            dot_of[r] = _row(
                floats(grad + token * row, width),
                floats(y + r * row, width),
                floats(weights + 4 * slot, 1)[0],
                floats(out + r * row, width),
            )
        else:
            row = 2 * width
            dot_of[r] = _row(
                shorts(grad + token * row, width),
                shorts(y + r * row, width),
                real(shorts(weights + 2 * slot, 1)[0]),
                shorts(out + r * row, width),
            )
