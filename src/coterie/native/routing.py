"""Kernels around the experts: their choice, the rows sorted by expert, and the sum of what they give.

Legend: T tokens, E experts, K chosen per token, N groups, R = T K routed rows, D width.
"""
# mypy: disable-error-code="no-untyped-def,call-arg"

from __future__ import annotations

import numpy as np

from coterie.jit.compiled import fast
from coterie.jit.primitives import doubles, exponential, floats, ints
from coterie.native.layout import THREADS, TOKENS
from coterie.native.matrices import piece_size
from coterie.native.primitives import call_kernel, number, take
from coterie.native.rows import fields, real

_LOWEST = np.float32(-3e38)


@fast
def _softmax(x, y, count):
    top = x[0]
    for j in range(1, count):
        top = max(top, x[j])
    total = np.float32(0)
    for j in range(count):
        y[j] = exponential(x[j] - top)
        total += y[j]
    for j in range(count):
        y[j] /= total


@fast
def _sigmoid(x, y, count):
    for j in range(count):
        y[j] = np.float32(1) / (np.float32(1) + exponential(-x[j]))


@fast
def _drop_groups(selection, num_experts, num_groups, top_groups, by_two, fill, group):
    """Fill the selection scores of all but the best groups."""
    size = num_experts // num_groups
    for g in range(num_groups):
        first, second = _LOWEST, _LOWEST
        for e in range(g * size, (g + 1) * size):
            x = selection[e]
            if x > first:
                first, second = x, first
            elif x > second:
                second = x
        group[g] = first + second if by_two else first
    for _ in range(top_groups):
        best = 0
        for g in range(1, num_groups):
            if group[g] > group[best]:
                best = g
        group[best] = _LOWEST * np.float32(1.1)  # minus infinity: taken
    for g in range(num_groups):
        if group[g] >= _LOWEST:
            for e in range(g * size, (g + 1) * size):
                selection[e] = fill


@fast
def _choose(selection, basis, ids, weights, num_experts, top_k):
    for j in range(top_k):
        best = 0
        for e in range(1, num_experts):
            if selection[e] > selection[best]:
                best = e
        ids[j] = best
        weights[j] = basis[best]
        selection[best] = -np.float32(np.inf)


def route(context: int, op: int) -> None:
    """The choice of experts, as `nn.router.Router.route` makes it.

    logits, scores, selection (T, E each), E, K, 1 for softmax, 1 to score after the choice, selection bias
    and its kind, groups, top groups, 1 for the sum of two, fill, 1 to renormalise, its eps, its least, scale,
    ids (T, K) int64, weights (T, K), group scores (T, N), factors of experts (0: none) and
    their kind.
    """
    f, num_tokens = fields(op), ints(context, 16)[TOKENS]
    num_experts, top_k = f[3], f[4]
    t = take(op)
    while t < num_tokens:
        at = t * num_experts * 4
        logits, scores = floats(f[0] + at, num_experts), floats(f[1] + at, num_experts)
        selection = floats(f[2] + at, num_experts)
        if f[5] != 0:
            _softmax(logits, scores, num_experts)
        else:
            _sigmoid(logits, scores, num_experts)
        basis = logits if f[6] != 0 else scores
        for e in range(num_experts):
            selection[e] = basis[e] + (number(f[7], e, f[8]) if f[7] != 0 else np.float32(0))
        ids, weights = ints(f[17] + t * top_k * 8, top_k), floats(f[18] + t * top_k * 4, top_k)
        if f[9] > 1:
            group = floats(f[19] + t * f[9] * 4, f[9])
            _drop_groups(selection, num_experts, f[9], f[10], f[11] != 0, real(op, 12), group)
        _choose(selection, basis, ids, weights, num_experts, top_k)
        if f[6] != 0:
            if f[5] != 0:
                _softmax(weights, weights, top_k)
            else:
                _sigmoid(weights, weights, top_k)
        if f[13] != 0:
            total = np.float32(0)
            for j in range(top_k):
                total += weights[j]
            total = max(total, real(op, 15)) + real(op, 14)
            for j in range(top_k):
                weights[j] /= total
        for j in range(top_k):
            weights[j] *= real(op, 16)
            if f[20] != 0:
                weights[j] *= number(f[20], ids[j], f[21])
        t = take(op)


def sort(context: int, op: int) -> None:
    """ids, E, K, starts (E + 1), active (E), address of their number, places (T, K), number of rows.

    `places[t, k]` is the row of that choice among those sorted by expert.
    """
    if take(op) != 0:
        return
    f = fields(op)
    num_rows, num_experts = ints(context, 16)[TOKENS] * f[2], f[1]
    ids, starts, active = ints(f[0], num_rows), ints(f[3], num_experts + 1), ints(f[4], num_experts)
    places = ints(f[6], num_rows)
    for e in range(num_experts + 1):
        starts[e] = 0
    for r in range(num_rows):
        starts[ids[r] + 1] += 1
    num_active = 0
    for e in range(num_experts):
        if starts[e + 1] > 0:
            active[num_active] = e
            num_active += 1
        starts[e + 1] += starts[e]
    for r in range(num_rows):
        places[r] = starts[ids[r]]
        starts[ids[r]] += 1
    for e in range(num_experts, 0, -1):
        starts[e] = starts[e - 1]
    starts[0] = 0
    ints(f[5], 1)[0] = num_active
    ints(f[7], 1)[0] = num_rows


def fetch(context: int, op: int) -> None:
    """Count the uses of a layer's experts, and have those read that are not in memory.

    active experts, their number, starts of their rows, table of places (E), uses (E) float64, what a use
    counts (1) float64, its growth, figures (2), a function of the first two fields.
    """
    f = fields(op)
    num_active = ints(f[1], 1)[0]
    active, starts, table = ints(f[0], 1 << 20), ints(f[2], 1 << 20), ints(f[3], 1 << 20)
    uses, weight, figures = doubles(f[4], 1 << 20), doubles(f[5], 1), ints(f[7], 2)
    weight[0] *= real(op, 6)
    missing = 0
    for i in range(num_active):
        expert = active[i]
        uses[expert] += weight[0] * (starts[expert + 1] - starts[expert])
        if table[expert] < 0:
            missing += 1
    figures[0] += num_active
    figures[1] += missing
    if missing > 0:
        call_kernel(f[8], f[0], num_active)


def gather(context: int, op: int) -> None:
    """x, stride, D, K, places (T, K), out (R, D), stride, weights (T, K; 0: none): rows sorted by expert."""
    f = fields(op)
    width, top_k = f[2], f[3]
    num_rows = ints(context, 16)[TOKENS] * top_k
    places = ints(f[4], num_rows)
    r = take(op)
    while r < num_rows:
        x, y = floats(f[0] + r // top_k * f[1], width), floats(f[5] + places[r] * f[6], width)
        factor = floats(f[7], num_rows)[r] if f[7] != 0 else np.float32(1)
        for j in range(width):
            y[j] = factor * x[j]
        r = take(op)


def scale_experts(context: int, op: int) -> None:
    """y, stride, O, starts, experts that have rows, their number, factors (E, O), bias (0: none), its kind.

    `y = factors[e] * y + bias[e]` on the rows of each expert, for DoRA. After these: bytes from one
    expert's bias to the next.
    """
    f = fields(op)
    width, starts, active = f[2], ints(f[3], 1 << 20), ints(f[4], 1 << 20)
    num_active = ints(f[5], 1)[0]
    item = take(op)
    while item < num_active:
        expert = active[item]
        factors, bias = floats(f[6] + expert * width * 4, width), f[7] + expert * f[9]
        for r in range(starts[expert], starts[expert + 1]):
            y = floats(f[0] + r * f[1], width)
            for j in range(width):
                y[j] = y[j] * factors[j] + (number(bias, j, f[8]) if f[7] != 0 else np.float32(0))
        item = take(op)


def combine(context: int, op: int) -> None:
    """rows (R, D), stride, D, K, places, weights (0: all 1), out, stride, factor, 1 to add."""
    f, c = fields(op), ints(context, 16)
    width, top_k, factor = f[2], f[3], real(op, 8)
    piece = piece_size(width, c[THREADS])
    pieces = (width + piece - 1) // piece
    places, weights = ints(f[4], c[TOKENS] * top_k), floats(f[5], c[TOKENS] * top_k)
    item = take(op)
    while item < c[TOKENS] * pieces:
        t, low = item // pieces, item % pieces * piece
        high = min(low + piece, width)
        y = floats(f[6] + t * f[7], width)
        if f[9] == 0:
            for j in range(low, high):
                y[j] = np.float32(0)
        for k in range(top_k):
            weight = factor * (weights[t * top_k + k] if f[5] != 0 else np.float32(1))
            row = floats(f[0] + places[t * top_k + k] * f[1], width)
            for j in range(low, high):
                y[j] += weight * row[j]
        item = take(op)
