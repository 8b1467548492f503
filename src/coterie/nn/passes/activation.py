"""`silu(gate) * up` of N rows of F numbers, forward and backward."""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import numpy as np

from coterie.jit.compiled import fast
from coterie.jit.primitives import exponential, floats, ints, shorts
from coterie.nn.passes.numbers import FIRST, KIND, ROWS, real, share, stored

_ONE = np.float32(1)


@fast
def _forward(gate, up, y):
    for j in range(y.shape[0]):
        x = real(gate[j])
        y[j] = stored(x * (_ONE / (_ONE + exponential(-x))) * real(up[j]), y)


@fast
def _backward(gate, up, grad, grad_gate, grad_up, hidden):
    for j in range(grad.shape[0]):
        x, u, g = real(gate[j]), real(up[j]), real(grad[j])
        sigmoid = _ONE / (_ONE + exponential(-x))
        silu = x * sigmoid
        hidden[j] = stored(silu * u, hidden)
        grad_up[j] = stored(g * silu, grad_up)
        grad_gate[j] = stored(g * u * sigmoid * (_ONE + x - silu), grad_gate)


def swiglu(context: int) -> None:
    """F, then address and stride in bytes of: gate, up, result."""
    c = ints(context, FIRST + 7)
    width, gate, gate_stride, up = c[FIRST], c[FIRST + 1], c[FIRST + 2], c[FIRST + 3]
    up_stride, y, y_stride = c[FIRST + 4], c[FIRST + 5], c[FIRST + 6]
    first, last = share(context, c[ROWS])
    for r in range(first, last):
        if c[KIND] == 0:
            _forward(
                floats(gate + r * gate_stride, width),
                floats(up + r * up_stride, width),
                floats(y + r * y_stride, width),
            )
        else:
            _forward(
                shorts(gate + r * gate_stride, width),
                shorts(up + r * up_stride, width),
                shorts(y + r * y_stride, width),
            )


def swiglu_gradient(context: int) -> None:
    """F, then address and stride of: gate, up, the result's gradient, those of gate and up, the result."""
    c = ints(context, FIRST + 13)
    width, gate, gate_stride, up = c[FIRST], c[FIRST + 1], c[FIRST + 2], c[FIRST + 3]
    up_stride, grad, grad_stride, grad_gate = c[FIRST + 4], c[FIRST + 5], c[FIRST + 6], c[FIRST + 7]
    grad_gate_stride, grad_up, grad_up_stride = c[FIRST + 8], c[FIRST + 9], c[FIRST + 10]
    y, y_stride = c[FIRST + 11], c[FIRST + 12]
    first, last = share(context, c[ROWS])
    for r in range(first, last):
        if c[KIND] == 0:
            _backward(
                floats(gate + r * gate_stride, width),
                floats(up + r * up_stride, width),
                floats(grad + r * grad_stride, width),
                floats(grad_gate + r * grad_gate_stride, width),
                floats(grad_up + r * grad_up_stride, width),
                floats(y + r * y_stride, width),
            )
        else:
            _backward(
                shorts(gate + r * gate_stride, width),
                shorts(up + r * up_stride, width),
                shorts(grad + r * grad_stride, width),
                shorts(grad_gate + r * grad_gate_stride, width),
                shorts(grad_up + r * grad_up_stride, width),
                shorts(y + r * y_stride, width),
            )
