"""Layer 1: what a model costs, from its config alone. Imports neither torch nor transformers."""

from coterie.plan.counts import (
    Counts,
    Memory,
    count_parameters,
    flops_per_token,
    kv_bytes,
    kv_bytes_per_token,
    memory,
    visible_keys,
)

__all__ = [
    "Counts",
    "Memory",
    "count_parameters",
    "flops_per_token",
    "kv_bytes",
    "kv_bytes_per_token",
    "memory",
    "visible_keys",
]
