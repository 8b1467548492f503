"""Kernels of attention over the keys and values that sequences keep.

Legend: T tokens (one of each sequence), S kept rows, G key/value heads, H query heads, D head width.
"""
# mypy: disable-error-code="no-untyped-def,call-arg,var-annotated"

from __future__ import annotations

import math

import numpy as np

from coterie.jit.compiled import fast, inline
from coterie.jit.primitives import as_bfloat16, exponential, floats, ints, shorts
from coterie.native.attention_vectors import KEYS, key_scores, largest, weighted_sum
from coterie.native.dots import dot
from coterie.native.layout import CAPACITY, KEPT, POSITIONS, SCORES, THREADS, TOKENS
from coterie.native.primitives import number, take
from coterie.native.rows import fields, real
from coterie.native.vectors import BF16, F32


@inline
def _kept(context, layer, t):
    """(keys, values, rows) of one sequence in the `layer`-th layer that keeps any."""
    c = ints(context, 16)
    entry = ints(c[KEPT] + (layer * c[TOKENS] + t) * 24, 3)
    return entry[0], entry[1], entry[2]


@fast
def _store(x, out, kind, width):
    """A row of float32 numbers into a cache."""
    numbers = floats(x, width)
    if kind == 0:
        kept = floats(out, width)
        for j in range(width):
            kept[j] = numbers[j]
    else:
        rounded = shorts(out, width)
        for j in range(width):
            rounded[j] = as_bfloat16(numbers[j])


def append(context: int, op: int) -> None:
    """layer, k, stride, width of keys, v, stride, width of values, kind of the cache: the new token's row."""
    f, num_tokens = fields(op), ints(context, 16)[TOKENS]
    size = 4 if f[7] == 0 else 2
    t = take(op)
    while t < num_tokens:
        keys, values, count = _kept(context, f[0], t)
        _store(f[1] + t * f[2], keys + (count - 1) * f[3] * size, f[7], f[3])
        _store(f[4] + t * f[5], values + (count - 1) * f[6] * size, f[7], f[6])
        t = take(op)


@inline
def _few_scores(kind, heads, q, q_stride, keys, step, count, width, out, out_stride, factor, add):
    """`out[h, s] (+)= factor q[h] keys[s]` for 1 to 4 heads, a literal."""
    key_scores(kind, KEYS, heads, q, q_stride, keys, step, count, width, out, out_stride, factor, add)
    done = count // KEYS * KEYS
    key_scores(kind, 1, heads, q, q_stride, keys + done * step, step, count - done, width, out + 4 * done,
               out_stride, factor, add)  # fmt: skip


@inline
def _scores(kind, q, q_stride, heads, keys, step, count, width, out, out_stride, factor, add):
    """The same for any number of heads."""
    h = 0
    while heads - h >= 4:
        _few_scores(kind, 4, q + h * q_stride, q_stride, keys, step, count, width, out + h * out_stride,
                    out_stride, factor, add)  # fmt: skip
        h += 4
    q, out = q + h * q_stride, out + h * out_stride
    if heads - h == 3:
        _few_scores(kind, 3, q, q_stride, keys, step, count, width, out, out_stride, factor, add)
    elif heads - h == 2:
        _few_scores(kind, 2, q, q_stride, keys, step, count, width, out, out_stride, factor, add)
    elif heads - h == 1:
        _few_scores(kind, 1, q, q_stride, keys, step, count, width, out, out_stride, factor, add)


@inline
def _mix(kind, shares, stride, heads, values, step, count, width, out, out_stride):
    """`out[h] = sum_s shares[h, s] values[s]`."""
    h = 0
    while heads - h >= 4:
        weighted_sum(kind, 4, shares + h * stride, stride, values, step, count, width, out + h * out_stride,
                     out_stride)  # fmt: skip
        h += 4
    shares, out = shares + h * stride, out + h * out_stride
    if heads - h == 3:
        weighted_sum(kind, 3, shares, stride, values, step, count, width, out, out_stride)
    elif heads - h == 2:
        weighted_sum(kind, 2, shares, stride, values, step, count, width, out, out_stride)
    elif heads - h == 1:
        weighted_sum(kind, 1, shares, stride, values, step, count, width, out, out_stride)


@fast
def _scores_f32(q, q_stride, heads, keys, step, count, width, out, out_stride, factor, add):
    _scores(F32, q, q_stride, heads, keys, step, count, width, out, out_stride, factor, add)


@fast
def _mix_f32(shares, stride, heads, values, step, count, width, out, out_stride):
    _mix(F32, shares, stride, heads, values, step, count, width, out, out_stride)


@fast
def _scores_bf16(q, q_stride, heads, keys, step, count, width, out, out_stride, factor, add):
    _scores(BF16, q, q_stride, heads, keys, step, count, width, out, out_stride, factor, add)


@fast
def _mix_bf16(shares, stride, heads, values, step, count, width, out, out_stride):
    _mix(BF16, shares, stride, heads, values, step, count, width, out, out_stride)


@fast
def _softmax(at, count, cap, sink, has_sink):
    """Scores to shares, in place. A sink joins the sum and has no share."""
    scores = floats(at, count)
    if cap > np.float32(0):
        for s in range(count):
            scores[s] = cap * np.float32(math.tanh(scores[s] / cap))
    top = largest(at, count)
    if has_sink:
        top = max(top, sink)
    total = np.float32(0)
    for s in range(count):
        share = exponential(scores[s] - top)
        scores[s] = share
        total += share
    if has_sink:
        total += exponential(sink - top)
    inverse = np.float32(1) / total
    for s in range(count):
        scores[s] *= inverse


@inline
def _first_seen(count, mask, window, last):
    """The first kept row that a query at position `last` sees. mask: 0 causal, 1 sliding, 2 chunked."""
    if mask == 1:
        return max(0, count - window)
    if mask == 2:
        return max(0, count - 1 - last % window)
    return 0


@inline
def _attend(score, mix, size, context, op):
    """layer, q, stride, H, G, D, out, stride, scale, cap (0: none), mask, window, sinks (0: none), kind."""
    f, c = fields(op), ints(context, 16)
    num_tokens, capacity, heads, groups, width = c[TOKENS], c[CAPACITY], f[3], f[4], f[5]
    share, step = heads // groups, groups * width * size
    item = take(op)
    while item < num_tokens * groups:
        t, group = item // groups, item % groups
        keys, values, count = _kept(context, f[0], t)
        low = _first_seen(count, f[10], f[11], ints(c[POSITIONS], num_tokens)[t])
        at = low * step + group * width * size
        seen, head = count - low, group * share
        scores = c[SCORES] + (t * heads + head) * capacity * 4
        score(f[1] + t * f[2] + head * width * 4, width * 4, share, keys + at, step, seen, width,
                scores, capacity * 4, real(op, 8), 0)  # fmt: skip
        for h in range(share):
            sink = number(f[12], head + h, f[13]) if f[12] != 0 else np.float32(0)
            _softmax(scores + h * capacity * 4, seen, real(op, 9), sink, f[12] != 0)
        mix(scores, capacity * 4, share, values + at, step, seen, width,
             f[6] + t * f[7] + head * width * 4, width * 4)  # fmt: skip
        item = take(op)


def attend_f32(context: int, op: int) -> None:
    """Attention over float32 keys and values."""
    _attend(_scores_f32, _mix_f32, 4, context, op)


def attend_bf16(context: int, op: int) -> None:
    """Attention over bfloat16 keys and values."""
    _attend(_scores_bf16, _mix_bf16, 2, context, op)


def absorb(context: int, op: int) -> None:
    """q, stride, H, bytes from head to head, N, W (H, N + V, C) and its kind 0 or 1, C, V, out (T, H, C).

    Queries for the latent: `out[h] = sum_n q[h, n] W[h, n]`.
    """
    f, num_tokens = fields(op), ints(context, 16)[TOKENS]
    heads, nope, weight, kind, latent, value = f[2], f[4], f[5], f[6], f[7], f[8]
    size = 4 if kind == 0 else 2
    item = take(op)
    while item < num_tokens * heads:
        t, h = item // heads, item % heads
        q = f[0] + t * f[1] + h * f[3]
        rows, out = weight + h * (nope + value) * latent * size, f[9] + (t * heads + h) * latent * 4
        if kind == 0:
            weighted_sum(F32, 1, q, 4, rows, latent * size, nope, latent, out, 4)
        else:
            weighted_sum(BF16, 1, q, 4, rows, latent * size, nope, latent, out, 4)
        item = take(op)


@inline
def _attend_latent(score, mix, size, context, op):
    """layer, q for the latent (T, H, C), rotated q, stride, step of a head, H, C, R, out (T, H, C), scale."""
    f, c = fields(op), ints(context, 16)
    num_tokens, capacity, heads, latent, rotated = c[TOKENS], c[CAPACITY], f[5], f[6], f[7]
    # Few heads at a time: they share the reading of the latents, and threads share the heads.
    share = max(1, min(4, heads // c[THREADS]))
    groups = (heads + share - 1) // share
    item = take(op)
    while item < num_tokens * groups:
        t, head = item // groups, item % groups * share
        num = min(share, heads - head)
        latents, keys, count = _kept(context, f[0], t)
        scores = c[SCORES] + (t * heads + head) * capacity * 4
        q = f[1] + (t * heads + head) * latent * 4
        score(q, latent * 4, num, latents, latent * size, count, latent, scores, capacity * 4,
                real(op, 9), 0)  # fmt: skip
        score(f[2] + t * f[3] + head * f[4], f[4], num, keys, rotated * size, count, rotated, scores,
                capacity * 4, real(op, 9), 1)  # fmt: skip
        for h in range(num):
            _softmax(scores + h * capacity * 4, count, np.float32(0), np.float32(0), False)
        mix(scores, capacity * 4, num, latents, latent * size, count, latent,
             f[8] + (t * heads + head) * latent * 4, latent * 4)  # fmt: skip
        item = take(op)


def attend_latent_f32(context: int, op: int) -> None:
    """Latent attention over a float32 cache."""
    _attend_latent(_scores_f32, _mix_f32, 4, context, op)


def attend_latent_bf16(context: int, op: int) -> None:
    """Latent attention over a bfloat16 cache."""
    _attend_latent(_scores_bf16, _mix_bf16, 2, context, op)


def expand(context: int, op: int) -> None:
    """x (T, H, C), H, N, W (H, N + V, C) and its kind 0 or 1, C, V, out, stride: `out[h] = W[h, N:] x[h]`."""
    f, num_tokens = fields(op), ints(context, 16)[TOKENS]
    heads, nope, weight, kind, latent, value = f[1], f[2], f[3], f[4], f[5], f[6]
    size = 4 if kind == 0 else 2
    one = np.float32(1)
    item = take(op)
    while item < num_tokens * heads:
        t, h = item // heads, item % heads
        x = f[0] + (t * heads + h) * latent * 4
        rows = weight + (h * (nope + value) + nope) * latent * size
        out = f[7] + t * f[8] + h * value * 4
        for v in range(value):
            at = rows + v * latent * size
            if kind == 0:
                dot(F32, 1, 1, at, 0, 0, 0, 0, 1, x, 0, latent, out + 4 * v, 0, 4, one, 0)
            else:
                dot(BF16, 1, 1, at, 0, 0, 0, 0, 1, x, 0, latent, out + 4 * v, 0, 4, one, 0)
        item = take(op)
