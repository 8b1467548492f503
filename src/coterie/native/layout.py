"""The tables that kernels read: one context, and one row of int64 fields per operation.

A field is a number, an address, or a float64 by its bits. Every operation has its own fields from FIRST on,
named where its kernel is.
"""

from __future__ import annotations

# An operation's row.
KERNEL, BARRIER, COUNTER, SERIAL, FIRST = 0, 1, 2, 3, 8
FIELDS = 40  # 320 bytes: five cache lines, so that no two counters share one

# The context.
(
    TOKENS,  # of this step
    THREADS,
    OPS,  # address of the table of operations
    NUM_OPS,
    WAIT,  # address of GOMP_barrier
    WHO,  # address of omp_get_thread_num
    IDS,  # (T,) int64
    POSITIONS,  # (T,) int64
    LONG,  # (T,) int64, 1 for a sequence beyond `ModelConfig.rope_switch`
    KEPT,  # (layers that keep keys, T, 3) int64: address of the keys, of the values, rows with the new one
    SCORES,  # (T, H, CAPACITY) float32, of the layer at work
    CAPACITY,  # kept rows that SCORES has room for
    STATES,  # (layers with a state, T, 2) int64: address of the convolution's tail, of the matrices
) = range(13)
CONTEXT = 16
