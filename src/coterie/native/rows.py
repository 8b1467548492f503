"""Kernels on rows of activations, float32: embedding, norms, positions, activations, sums.

Legend: T tokens, D width of a row. A kernel's fields are named before it, in the order from FIRST on.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import math
from typing import Any

import numpy as np

from coterie.jit.compiled import fast, inline
from coterie.jit.primitives import doubles, exponential, floats, ints
from coterie.native.layout import FIRST, IDS, LONG, POSITIONS, TOKENS
from coterie.native.primitives import number, take

_PIECE = 4096  # numbers of a long row that a thread takes at a time


@inline
def fields(op: Any) -> Any:
    """The operation's own fields."""
    return ints(op + 8 * FIRST, 32)


@inline
def real(op: Any, index: Any) -> Any:
    """Field `index` of the operation's own, a float."""
    return np.float32(doubles(op + 8 * FIRST, 32)[index])


def embed(context: int, op: int) -> None:
    """table, kind, D, out, stride of out; factor: `out[t] = factor * table[ids[t]]`."""
    f, num_tokens = fields(op), ints(context, 16)[TOKENS]
    table, kind, width, out, stride, factor = f[0], f[1], f[2], f[3], f[4], real(op, 5)
    ids = ints(ints(context, 16)[IDS], num_tokens)
    t = take(op)
    while t < num_tokens:
        y = floats(out + t * stride, width)
        row = table + ids[t] * width * (4 if kind == 0 else 2)
        for j in range(width):
            y[j] = number(row, j, kind) * factor
        t = take(op)


@fast
def _norm_row(x, weight, kind, plus_one, y, width, eps):
    total = np.float32(0)
    for j in range(width):
        total += x[j] * x[j]
    scale = np.float32(1) / np.float32(math.sqrt(total / np.float32(width) + eps))
    if weight == 0:
        for j in range(width):
            y[j] = x[j] * scale
    elif kind == 0:
        w = floats(weight, width)
        for j in range(width):
            y[j] = x[j] * scale * (w[j] + plus_one)
    else:
        for j in range(width):
            y[j] = x[j] * scale * (number(weight, j, 1) + plus_one)


def norm(context: int, op: int) -> None:
    """x, stride, parts per token, D of a part, weight (0: none), kind, plus one, eps, out, stride of out.

    RMSNorm of each part of each token's row; `x` and `out` may be the same.
    """
    f, num_tokens = fields(op), ints(context, 16)[TOKENS]
    x, stride, parts, width, weight, kind = f[0], f[1], f[2], f[3], f[4], f[5]
    plus_one, eps, out, out_stride = real(op, 6), real(op, 7), f[8], f[9]
    t = take(op)
    while t < num_tokens:
        for part in range(parts):
            at = part * width * 4
            row, y = floats(x + t * stride + at, width), floats(out + t * out_stride + at, width)
            _norm_row(row, weight, kind, plus_one, y, width, eps)
        t = take(op)


def angles(context: int, op: int) -> None:
    """frequencies, long frequencies (0: none), pairs, gain, out (T, 2, pairs): cos and sin of each token."""
    f, num_tokens = fields(op), ints(context, 16)[TOKENS]
    pairs, gain = f[2], real(op, 3)
    positions = ints(ints(context, 16)[POSITIONS], num_tokens)
    long = ints(ints(context, 16)[LONG], num_tokens)
    t = take(op)
    while t < num_tokens:
        frequencies = floats(f[1] if f[1] != 0 and long[t] != 0 else f[0], pairs)
        out = floats(f[4] + t * pairs * 8, 2 * pairs)
        for j in range(pairs):
            angle = np.float64(np.float32(positions[t]) * frequencies[j])
            out[j] = np.float32(math.cos(angle)) * gain
            out[pairs + j] = np.float32(math.sin(angle)) * gain
        t = take(op)


def rotate(context: int, op: int) -> None:
    """x, stride, heads, bytes from head to head, pairs, cos and sin (T, 2, pairs), 1 for neighbouring pairs.

    Rotates the first 2 * pairs numbers of each head.
    """
    f, num_tokens = fields(op), ints(context, 16)[TOKENS]
    x, stride, heads, step, pairs, neighbours = f[0], f[1], f[2], f[3], f[4], f[6]
    t = take(op)
    while t < num_tokens:
        turn = floats(f[5] + t * pairs * 8, 2 * pairs)
        for head in range(heads):
            h = floats(x + t * stride + head * step, 2 * pairs)
            for j in range(pairs):
                first, second = (2 * j, 2 * j + 1) if neighbours else (j, pairs + j)
                a, b = h[first], h[second]
                h[first] = a * turn[j] - b * turn[pairs + j]
                h[second] = b * turn[j] + a * turn[pairs + j]
        t = take(op)


def heat(context: int, op: int) -> None:
    """x, stride, D, positions of one step, offset, scale: `TemperatureConfig`."""
    f, num_tokens = fields(op), ints(context, 16)[TOKENS]
    positions = ints(ints(context, 16)[POSITIONS], num_tokens)
    t = take(op)
    while t < num_tokens:
        steps = np.float32((positions[t] + f[4]) // f[3])
        factor = np.float32(math.log1p(steps)) * real(op, 5) + np.float32(1)
        x = floats(f[0] + t * f[1], f[2])
        for j in range(f[2]):
            x[j] *= factor
        t = take(op)


def limit(context: int, op: int) -> None:
    """x, stride, D, bound: every number between -bound and bound."""
    f, num_tokens, bound = fields(op), ints(context, 16)[TOKENS], real(op, 3)
    t = take(op)
    while t < num_tokens:
        x = floats(f[0] + t * f[1], f[2])
        for j in range(f[2]):
            x[j] = max(-bound, min(bound, x[j]))
        t = take(op)


def copy(context: int, op: int) -> None:
    """x, stride, D, out, stride of out, factor, 1 to add: `out[t] (+)= factor * x[t]`."""
    f, num_tokens, factor = fields(op), ints(context, 16)[TOKENS], real(op, 5)
    t = take(op)
    while t < num_tokens:
        x, y = floats(f[0] + t * f[1], f[2]), floats(f[3] + t * f[4], f[2])
        if f[6] != 0:
            for j in range(f[2]):
                y[j] += factor * x[j]
        else:
            for j in range(f[2]):
                y[j] = factor * x[j]
        t = take(op)


def scale_columns(context: int, op: int) -> None:
    """x, stride, D, factors (D,): DoRA's factor of each output."""
    f, num_tokens = fields(op), ints(context, 16)[TOKENS]
    t = take(op)
    while t < num_tokens:
        x, factors = floats(f[0] + t * f[1], f[2]), floats(f[3], f[2])
        for j in range(f[2]):
            x[j] *= factors[j]
        t = take(op)


def shift_columns(context: int, op: int) -> None:
    """x, stride, D, bias (D,), its kind: `x += bias`."""
    f, num_tokens = fields(op), ints(context, 16)[TOKENS]
    t = take(op)
    while t < num_tokens:
        x = floats(f[0] + t * f[1], f[2])
        for j in range(f[2]):
            x[j] += number(f[3], j, f[4])
        t = take(op)


def gate_rows(context: int, op: int) -> None:
    """x, stride, D, gate, stride of gate, numbers that share a gate: `x *= sigmoid(gate)`."""
    f, num_tokens = fields(op), ints(context, 16)[TOKENS]
    x, stride, width, gate, gate_stride, shared = f[0], f[1], f[2], f[3], f[4], f[5]
    t = take(op)
    while t < num_tokens:
        row, gates = floats(x + t * stride, width), floats(gate + t * gate_stride, width // shared)
        if shared == 1:
            for j in range(width):
                row[j] *= np.float32(1) / (np.float32(1) + exponential(-gates[j]))
        else:
            for head in range(width // shared):
                factor = np.float32(1) / (np.float32(1) + exponential(-gates[head]))
                for j in range(head * shared, (head + 1) * shared):
                    row[j] *= factor
        t = take(op)


@fast
def _tanh(x):
    """tanh by the exponential, of a float32."""
    e = exponential(np.float32(-2) * abs(x))
    return math.copysign((np.float32(1) - e) / (np.float32(1) + e), x)


def cap(context: int, op: int) -> None:
    """x, stride, D, cap: `cap * tanh(x / cap)`, a piece of a row at a time."""
    f, num_tokens, bound = fields(op), ints(context, 16)[TOKENS], real(op, 3)
    width = f[2]
    pieces = (width + _PIECE - 1) // _PIECE
    item = take(op)
    while item < num_tokens * pieces:
        x = floats(f[0] + item // pieces * f[1], width)
        low = item % pieces * _PIECE
        for j in range(low, min(low + _PIECE, width)):
            x[j] = bound * _tanh(x[j] / bound)
        item = take(op)


# How `activate` makes a hidden row. A clamped one has gate and up in turns.
SILU, GELU, RELU2, CLAMPED = range(4)


@fast
def _activated(x, y, width, activation):
    """`y = activation(x)`."""
    if activation == SILU:
        for j in range(width):
            y[j] = x[j] / (np.float32(1) + exponential(-x[j]))
    elif activation == GELU:
        for j in range(width):
            a = x[j]
            inner = np.float32(0.7978845608028654) * (a + np.float32(0.044715) * a * a * a)
            y[j] = np.float32(0.5) * a * (np.float32(1) + _tanh(inner))
    else:
        for j in range(width):
            positive = max(x[j], np.float32(0))
            y[j] = positive * positive


@fast
def _clamped(both, y, width, alpha, bound):
    """`y = (up + 1) * gate * sigmoid(alpha * gate)`, gate and up clamped."""
    for j in range(width):
        gate, up = min(both[2 * j], bound), max(-bound, min(bound, both[2 * j + 1]))
        y[j] = (up + np.float32(1)) * gate / (np.float32(1) + exponential(-alpha * gate))


def activate(context: int, op: int) -> None:
    """first, up (0: none), stride of both, F, out, stride, activation, alpha, bound, address of a count.

    `out = activation(first) * up`. The count is of rows; with 0 it is that of the context's tokens.
    """
    f = fields(op)
    num_rows = ints(context, 16)[TOKENS] if f[9] == 0 else ints(f[9], 1)[0]
    width = f[3]
    t = take(op)
    while t < num_rows:
        first, y = floats(f[0] + t * f[2], 2 * width), floats(f[4] + t * f[5], width)
        if f[6] == CLAMPED:
            _clamped(first, y, width, real(op, 7), real(op, 8))
        else:
            _activated(first, y, width, f[6])
            if f[1] != 0:
                up = floats(f[1] + t * f[2], width)
                for j in range(width):
                    y[j] *= up[j]
        t = take(op)
