"""Kernels of the layers with a state: the short convolution, the gated delta rule, Mamba-2.

Each reads the state of each sequence and leaves the next one in its place. A state is float32: first the
convolution's tail, its last inputs (taps - 1, C), then a matrix for each head.

Legend: T tokens (one of each sequence), C channels, H heads, K key width, V value width, G groups, S width of
Mamba-2's state, P width of its heads.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import math

import numpy as np

from coterie.jit.compiled import fast, inline
from coterie.jit.primitives import exponential, floats, ints
from coterie.native.layout import STATES, TOKENS
from coterie.native.primitives import number, take
from coterie.native.rows import fields, real

# Channels that a thread convolves at a time, whatever their number: a channel's place in a vector must not
# depend on the threads.
_CHANNELS = 1024
_ONE = np.float32(1)


@inline
def _state(context, layer, t):
    """(tail, matrices) of one sequence in the `layer`-th layer with a state."""
    c = ints(context, 16)
    entry = ints(c[STATES] + (layer * c[TOKENS] + t) * 16, 2)
    return entry[0], entry[1]


@fast
def _sigmoid(x):
    return _ONE / (_ONE + exponential(-x))


@fast
def _softplus(x):
    """As PyTorch has it: the number itself beyond 20."""
    return x if x > np.float32(20) else np.float32(math.log1p(math.exp(np.float64(x))))


@fast
def _convolve(x, y, tail, taps, num_taps, channels, low, high, bias, kind):
    """Channels [low, high) of `y = bias + sum_k taps[k] input[k]`, x being the last input, and the next tail.

    Taps are (num_taps, C).
    """
    last = (num_taps - 1) * channels
    for j in range(low, high):
        y[j] = x[j] * taps[last + j]
    for k in range(num_taps - 1):
        at = k * channels
        for j in range(low, high):
            y[j] += tail[at + j] * taps[at + j]
    if bias != 0:
        for j in range(low, high):
            y[j] += number(bias, j, kind)
    for k in range(num_taps - 2):
        at = k * channels
        for j in range(low, high):
            tail[at + j] = tail[at + channels + j]
    at = last - channels
    for j in range(low, high):
        tail[at + j] = x[j]


@fast
def _activate(x, low, high):
    """SiLU, in place."""
    for j in range(low, high):
        x[j] = x[j] / (_ONE + exponential(-x[j]))


def short_conv(context: int, op: int) -> None:
    """layer, rows of b, c and x (3 C), stride, C, taps, their number, bias (0: none), its kind, out, stride.

    `out = c * conv(b * x)`; b times x is left where x was.
    """
    f, num_tokens = fields(op), ints(context, 16)[TOKENS]
    channels, num_taps = f[3], f[5]
    t = take(op)
    while t < num_tokens:
        tail, _ = _state(context, f[0], t)
        b, c = floats(f[1] + t * f[2], channels), floats(f[1] + t * f[2] + channels * 4, channels)
        x, y = floats(f[1] + t * f[2] + channels * 8, channels), floats(f[8] + t * f[9], channels)
        for j in range(channels):
            x[j] *= b[j]
        kept = floats(tail, (num_taps - 1) * channels)
        _convolve(x, y, kept, floats(f[4], num_taps * channels), num_taps, channels, 0, channels, f[6], f[7])
        for j in range(channels):
            y[j] *= c[j]
        t = take(op)


def convolve(context: int, op: int) -> None:
    """layer, x, stride, C, taps, their number, bias (0: none), its kind, out, stride: `silu(conv(x))`."""
    f, num_tokens = fields(op), ints(context, 16)[TOKENS]
    channels, num_taps = f[3], f[5]
    pieces = (channels + _CHANNELS - 1) // _CHANNELS
    item = take(op)
    while item < num_tokens * pieces:
        t, low = item // pieces, item % pieces * _CHANNELS
        high = min(low + _CHANNELS, channels)
        tail, _ = _state(context, f[0], t)
        x, y = floats(f[1] + t * f[2], channels), floats(f[8] + t * f[9], channels)
        kept = floats(tail, (num_taps - 1) * channels)
        taps = floats(f[4], num_taps * channels)
        _convolve(x, y, kept, taps, num_taps, channels, low, high, f[6], f[7])
        _activate(y, low, high)
        item = take(op)


@fast
def _unit(x, width, factor):
    """A vector of length `factor`, in place."""
    total = np.float32(0)
    for j in range(width):
        total += x[j] * x[j]
    scale = factor / np.float32(math.sqrt(total + np.float32(1e-6)))
    for j in range(width):
        x[j] *= scale


@fast
def _known(state, k, y, keys, values):
    """`y = S^T k`, four rows of S at a time."""
    for j in range(values):
        y[j] = np.float32(0)
    whole = keys // 4 * 4
    for i in range(0, whole, 4):
        a, b, c, d = i * values, (i + 1) * values, (i + 2) * values, (i + 3) * values
        for j in range(values):
            y[j] += (
                k[i] * state[a + j]
                + k[i + 1] * state[b + j]
                + (k[i + 2] * state[c + j] + k[i + 3] * state[d + j])
            )
    for i in range(whole, keys):
        for j in range(values):
            y[j] += k[i] * state[i * values + j]


@fast
def _written(state, q, k, v, y, keys, values, decay, factor):
    """`S = decay S + factor k v^T; y = S^T q`, two rows of S at a time."""
    for j in range(values):
        y[j] = np.float32(0)
    whole = keys // 2 * 2
    for i in range(0, whole, 2):
        a, b = i * values, (i + 1) * values
        share, next_share = factor * k[i], factor * k[i + 1]
        for j in range(values):
            first, second = decay * state[a + j] + share * v[j], decay * state[b + j] + next_share * v[j]
            state[a + j] = first
            state[b + j] = second
            y[j] += q[i] * first + q[i + 1] * second
    for i in range(whole, keys):
        for j in range(values):
            first = decay * state[i * values + j] + factor * k[i] * v[j]
            state[i * values + j] = first
            y[j] += q[i] * first


@fast
def _normed(y, z, weight, kind, plus_one, eps, width):
    """RMSNorm of y times SiLU of z, in place."""
    total = np.float32(0)
    for j in range(width):
        total += y[j] * y[j]
    scale = _ONE / np.float32(math.sqrt(total / np.float32(width) + eps))
    for j in range(width):
        y[j] *= scale * (number(weight, j, kind) + plus_one) * (z[j] * _sigmoid(z[j]))


def delta(context: int, op: int) -> None:
    """The gated delta rule after its convolution, with gate and norm: `nn.gated_delta.GatedDeltaNet`.

    layer, convolved rows of queries, keys and values, stride, a, stride, b, stride, z, stride, heads of
    keys, heads of values, K, V, A_log and its kind, dt_bias and its kind, norm and its kind, plus one, eps,
    out, stride. Queries, keys and values are changed in place.
    """
    f, num_tokens = fields(op), ints(context, 16)[TOKENS]
    key_heads, heads, keys, values = f[9], f[10], f[11], f[12]
    copies = heads // key_heads
    item = take(op)
    while item < num_tokens * key_heads:
        t, group = item // key_heads, item % key_heads
        _, matrices = _state(context, f[0], t)
        row = f[1] + t * f[2]
        q, k = floats(row + group * keys * 4, keys), floats(row + (key_heads + group) * keys * 4, keys)
        _unit(q, keys, _ONE / np.float32(math.sqrt(keys)))
        _unit(k, keys, _ONE)
        for head in range(group * copies, (group + 1) * copies):
            v = floats(row + (2 * key_heads * keys + head * values) * 4, values)
            y = floats(f[21] + t * f[22] + head * values * 4, values)
            state = floats(matrices + head * keys * values * 4, keys * values)
            rate = exponential(number(f[13], head, f[14]))
            raw = floats(f[3] + t * f[4], heads)[head] + number(f[15], head, f[16])
            decay = exponential(-rate * _softplus(raw))
            beta = _sigmoid(floats(f[5] + t * f[6], heads)[head])
            _known(state, k, y, keys, values)
            for j in range(values):
                v[j] = beta * (v[j] - decay * y[j])
            _written(state, q, k, v, y, keys, values, decay, _ONE)
            z = floats(f[7] + t * f[8] + head * values * 4, values)
            _normed(y, z, f[17], f[18], real(op, 19), real(op, 20), values)
        item = take(op)


def scan(context: int, op: int) -> None:
    """Mamba-2 after its convolution, up to its norm: `nn.mamba2.Mamba2`.

    layer, convolved rows of x, b and c, stride, dt, stride, z, stride, H, P, S, G, A_log and its kind,
    dt_bias and its kind, skip and its kind, least and largest step, out, stride.
    """
    f, num_tokens = fields(op), ints(context, 16)[TOKENS]
    heads, width, size, groups = f[7], f[8], f[9], f[10]
    item = take(op)
    while item < num_tokens * heads:
        t, head = item // heads, item % heads
        _, matrices = _state(context, f[0], t)
        row = f[1] + t * f[2]
        x, y = floats(row + head * width * 4, width), floats(f[19] + t * f[20] + head * width * 4, width)
        group = head // (heads // groups)
        k = floats(row + (heads * width + group * size) * 4, size)
        q = floats(row + (heads * width + (groups + group) * size) * 4, size)
        raw = floats(f[3] + t * f[4], heads)[head] + number(f[13], head, f[14])
        step = min(max(_softplus(raw), real(op, 17)), real(op, 18))
        decay = exponential(-exponential(number(f[11], head, f[12])) * step)
        skip = number(f[15], head, f[16])
        state = floats(matrices + head * size * width * 4, size * width)
        _written(state, q, k, x, y, size, width, decay, step)
        z = floats(f[5] + t * f[6] + head * width * 4, width)
        for j in range(width):
            y[j] = (y[j] + skip * x[j]) * (z[j] * _sigmoid(z[j]))
        item = take(op)


def group_norm(context: int, op: int) -> None:
    """x, stride, parts, width of a part, weight of all parts (parts * width), its kind, plus one, eps.

    RMSNorm of each part, in place.
    """
    f, num_tokens = fields(op), ints(context, 16)[TOKENS]
    parts, width, plus_one = f[2], f[3], real(op, 6)
    t = take(op)
    while t < num_tokens:
        for part in range(parts):
            x = floats(f[0] + t * f[1] + part * width * 4, width)
            total = np.float32(0)
            for j in range(width):
                total += x[j] * x[j]
            scale = _ONE / np.float32(math.sqrt(total / np.float32(width) + real(op, 7)))
            for j in range(width):
                x[j] *= scale * (number(f[4], part * width + j, f[5]) + plus_one)
        t = take(op)
