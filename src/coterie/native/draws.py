"""Tokens from scores in one pass over each row, where rounding cannot decide which token it is.

`infer/sampling.py` defines what is drawn: a sort of the row, a running sum, a search. The kernel finds the
same token without sorting the row: a histogram of the scores says in which bin each cut and the drawn token
lie, and only those bins are sorted. Its sums differ from the definition's by rounding. So it answers only
where every decision has room to spare, and leaves equal scores and sums that end on a limit to the
definition.

Legend: B rows, V vocabulary, z = (largest score - score) / temperature, w = exp(-z).
"""

# mypy: disable-error-code="no-untyped-def,call-arg,attr-defined"

from __future__ import annotations

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from coterie.jit.compiled import fast

# Columns of the settings of a row; a top_k of V or more keeps all tokens.
MOST, INVERSE_TEMPERATURE, TOP_K, TOP_P, MIN_P, UNIFORM, COLUMNS = range(7)
UNSURE = -1
_PER_UNIT, _BINS = 16, 512  # bins have a width of 1/16; the last one takes all z from 32 on
_ROOM = 1e-9  # share of the row's sum; sums of a million doubles are off by 1e-10 at most
_TIE = 1e-12  # relative; weights that are nearer may be equal in the definition
_BLOCK = 256


@intrinsic
def _unbits(typing: Any, x: Any) -> Any:
    """The float64 with the bits of an int64."""

    def generate(context: Any, b: Any, signature: Any, args: Any) -> Any:
        return b.bitcast(args[0], ir.DoubleType())

    return types.float64(types.int64), generate


@fast
def _exponential(x):
    """exp of a float64 from -700 to 0 in a form that LLVM turns into vectors; relative error below 1e-14."""
    n = math.floor(x * 1.4426950408889634 + 0.5)
    r = x - n * 6.93145751953125e-1 - n * 1.42860682030941723212e-6
    p = 1.0 / 39916800.0
    p = p * r + 1.0 / 3628800.0
    p = p * r + 1.0 / 362880.0
    p = p * r + 1.0 / 40320.0
    p = p * r + 1.0 / 5040.0
    p = p * r + 1.0 / 720.0
    p = p * r + 1.0 / 120.0
    p = p * r + 1.0 / 24.0
    p = p * r + 1.0 / 6.0
    p = p * r + 0.5
    p = p * r + 1.0
    p = p * r + 1.0
    return p * _unbits((np.int64(n) + 1023) << 52)


@fast
def _weigh(row, most, inverse, weights, bins):
    """The weight of each token, and the bin that it lies in."""
    for i in range(row.shape[0]):
        z = min(np.float64(most - row[i]) * inverse, 700.0)
        weights[i] = _exponential(-z)
        bins[i] = np.int32(min(z * _PER_UNIT, np.float64(_BINS - 1)))


@fast
def _sort_bin(weights, bins, which, ids):
    """Write the tokens of a bin to `ids`, heaviest first; returns how many there are."""
    count = 0
    for i in range(weights.shape[0]):
        if bins[i] == which:
            ids[count] = i
            count += 1
    gap = count // 2
    while gap > 0:  # Shell's sort: numba's own one takes seconds to compile
        for i in range(gap, count):
            moved, j = ids[i], i
            while j >= gap and weights[ids[j - gap]] < weights[moved]:
                ids[j] = ids[j - gap]
                j -= gap
            ids[j] = moved
        gap = 1 if gap == 2 else gap * 5 // 11
    return count


@fast
def _in_order_of_ids(weights, min_p, u):
    """Draw without top-k and top-p: shares are added up in the order of the ids."""
    total, near = 0.0, 0
    for i in range(weights.shape[0]):
        w = weights[i]
        near += abs(w - min_p) <= _ROOM * min_p
        total += w if w >= min_p else 0.0
    if min_p > 0.0 and near > 0:
        return UNSURE
    target, room, cumulative, start = u * total, _ROOM * total, 0.0, 0
    while start < weights.shape[0]:
        block = 0.0
        for i in range(start, min(start + _BLOCK, weights.shape[0])):
            block += weights[i] if weights[i] >= min_p else 0.0
        if cumulative + block > target:
            break
        cumulative += block
        start += _BLOCK
    for i in range(start, min(start + _BLOCK, weights.shape[0])):
        share = weights[i] if weights[i] >= min_p else 0.0
        if cumulative + share > target:
            return i if min(target - cumulative, cumulative + share - target) > room else UNSURE
        cumulative += share
    return UNSURE


@fast
def _first_at(masses, limit):
    """The first bin with which the sum of the masses reaches `limit`, or else the last."""
    mass = 0.0
    for which in range(_BINS - 1):
        mass += masses[which]
        if mass >= limit:
            return which
    return _BINS - 1


@fast
def _kept(weights, bins, counts, masses, settings, ids):
    """Where top-k, top-p and min-p end the tokens: (bin, tokens kept in it, their mass with all before).

    The bin is left sorted in `ids`. A negative bin: not sure.
    """
    last, total = _BINS - 1, masses.sum()
    room = _ROOM * total
    k = np.int64(settings[TOP_K])
    by_number, before, whole = last, 0, total
    if k < weights.shape[0]:
        by_number, whole = 0, 0.0
        while before + counts[by_number] < k:
            before += counts[by_number]
            whole += masses[by_number]
            by_number += 1
        if by_number < last:
            _sort_bin(weights, bins, by_number, ids)
            for j in range(k - before):
                whole += weights[ids[j]]
    top_p, min_p = settings[TOP_P], settings[MIN_P]
    limit = top_p * whole if top_p < 1.0 else np.inf
    end = min(by_number, _first_at(masses, limit))
    if min_p > 0.0:
        place = -math.log(min_p) * _PER_UNIT
        if abs(place - round(place)) < 1e-6:
            return -1, 0, 0.0
        end = min(end, np.int64(min(place, np.float64(last))))
    mass, before = masses[:end].sum(), counts[:end].sum()
    if end == last:  # what lies there weighs nothing, or nothing is sure
        return (last if masses[last] < 0.01 * room else -1), 0, mass
    count = _sort_bin(weights, bins, end, ids)
    kept = 0
    while kept < count:
        w = weights[ids[kept]]
        if abs(mass - limit) <= room or (abs(w - min_p) <= _ROOM * min_p and min_p > 0.0):
            return -1, 0, 0.0
        if before + kept >= k or mass >= limit or w < min_p:
            break
        mass += w
        kept += 1
    return (-1 if abs(mass - limit) <= room else end), kept, mass


@fast
def _best_first(row, settings, weights, bins, counts, masses, ids):
    """Draw under top-k or top-p: shares are added up from the heaviest on."""
    counts[:] = 0
    masses[:] = 0.0
    for i in range(weights.shape[0]):
        counts[bins[i]] += 1
        masses[bins[i]] += weights[i]
    end, kept, whole = _kept(weights, bins, counts, masses, settings, ids)
    if end < 0:
        return UNSURE
    target, room, cumulative, which = settings[UNIFORM] * whole, _ROOM * masses.sum(), 0.0, 0
    while which < end and cumulative + masses[which] <= target:
        cumulative += masses[which]
        which += 1
    count = _sort_bin(weights, bins, which, ids) if which < _BINS - 1 else 0
    for j in range(kept if which == end else count):
        i = ids[j]
        w = weights[i]
        if cumulative + w > target:
            if min(target - cumulative, cumulative + w - target) <= room:
                return UNSURE
            if j > 0 and weights[ids[j - 1]] - w <= _TIE * w:
                return UNSURE
            if j + 1 < count and w - weights[ids[j + 1]] <= _TIE * w:
                return UNSURE
            place = np.float64(np.float32(settings[MOST]) - row[i])
            place *= settings[INVERSE_TEMPERATURE] * _PER_UNIT
            # Next to a border of bins, an equal weight could lie on the other side.
            return UNSURE if place > 0.0 and abs(place - round(place)) < 1e-6 else i
        cumulative += w
    return UNSURE


@fast
def _draw(scores, settings, drawn):
    vocabulary = scores.shape[1]
    weights, bins = np.empty(vocabulary), np.empty(vocabulary, np.int32)
    ids, counts, masses = np.empty(vocabulary, np.int64), np.empty(_BINS, np.int64), np.empty(_BINS)
    for b in range(scores.shape[0]):
        row, own = scores[b], settings[b]
        drawn[b] = UNSURE
        # False for NaN too. Outside of these temperatures weights are equal, or their inverse infinite.
        if abs(own[MOST]) < np.inf and 1e-4 <= own[INVERSE_TEMPERATURE] <= 1e4:
            _weigh(row, np.float32(own[MOST]), own[INVERSE_TEMPERATURE], weights, bins)
            if own[TOP_K] >= vocabulary and own[TOP_P] >= 1.0:
                drawn[b] = _in_order_of_ids(weights, own[MIN_P], own[UNIFORM])
            else:
                drawn[b] = _best_first(row, own, weights, bins, counts, masses, ids)


def draw(scores_BV: np.ndarray, settings_BC: np.ndarray) -> np.ndarray:
    """A token id for each row, int64 (B,), or `UNSURE`.

    `scores_BV`: float32, rows contiguous; `settings_BC`: float64, the columns named above.
    """
    drawn_B = np.empty(len(scores_BV), np.int64)
    _draw(scores_BV, settings_BC, drawn_B)
    return drawn_B
