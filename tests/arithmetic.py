"""How far two ways of computing the same numbers may differ, derived from the arithmetic.

A processor chooses the order and the width of its sums. Two right results therefore differ in their last
digits, and by how much depends on the machine. A tolerance that one machine happened to meet says nothing
about the next one. Here it follows from the unit roundoff u of the type, the length of the sums, the number
of sums that read each other's results, and the size of the numbers:

    GROWTH * u * sqrt(2 * terms * depth) * size

* Rounding errors are as good as independent, so the n roundings of a sum add up like a random walk, to about
  sqrt(n) * u times the size (Higham and Mary 2019, "A new approach to probabilistic rounding error analysis",
  SIAM J. Sci. Comput. 41). The certain bound, n * u, is many times larger than any error that occurs.
* `depth` such sums follow each other; norms keep an error from growing on its way. Their errors are
  independent too.
* Both results are rounded, hence the 2.
* GROWTH is how many standard deviations the largest of up to a million elements may reach.

Wrong formulas move results a thousand times further (`tests/families/test_mistakes.py`).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from coterie.config import FeedForwardConfig, ModelConfig

GROWTH = 5.0
OPERATIONS_PER_BLOCK = (
    6  # queries and keys, scores, values, output, gate and up, down: each reads the one before
)


def tolerance(
    expected: Tensor | float, terms: int, depth: int = 1, dtype: torch.dtype = torch.float32
) -> float:
    """Largest absolute difference between two computations of `expected` in `dtype`.

    `terms`: length of the longest sum. `depth`: number of such sums that read each other's results. `size` of
    the formula is the largest finite magnitude of `expected`, which may also be given as a number.
    """
    size = expected if isinstance(expected, float) else largest(expected)
    return GROWTH * unit_roundoff(dtype) * math.sqrt(2 * terms * depth) * size


def model_tolerance(
    config: ModelConfig, expected: Tensor, tokens: int = 1, dtype: torch.dtype = torch.float32
) -> float:
    """`tolerance` of what a whole model computes: its longest sum, and the depth of its blocks and head.

    `tokens`: length of the longest sequence, because attention sums over tokens.
    """
    widths = [config.width, tokens]
    for block in config.blocks:
        ffn, attention = block.ffn, block.attention
        widths.append(ffn.width if isinstance(ffn, FeedForwardConfig) else ffn.expert_width)
        widths.append(attention.num_heads * attention.head_dim)
    depth = OPERATIONS_PER_BLOCK * (config.num_layers + config.num_mtp_layers) + 1
    return tolerance(expected, max(widths), depth, dtype)


def unit_roundoff(dtype: torch.dtype) -> float:
    """Half the distance between 1 and the next number of `dtype`."""
    return torch.finfo(dtype).eps / 2


def largest(x: Tensor) -> float:
    """The largest finite magnitude in `x` (at least 1e-30, so that zeros have a tolerance too)."""
    finite = x.detach().float().abs()
    finite = finite[finite.isfinite()]
    return max(float(finite.max()) if finite.numel() else 0.0, 1e-30)


def assert_close(actual: Tensor, expected: Tensor, terms: int, depth: int = 1) -> None:
    """`actual` is `expected` up to rounding: every element, in the coarser of the two types."""
    dtypes = [x.dtype for x in (actual, expected) if x.is_floating_point()]
    coarse = max(dtypes, key=lambda dtype: torch.finfo(dtype).eps)
    bound = tolerance(expected, terms, depth, coarse)
    torch.testing.assert_close(actual.double(), expected.double(), rtol=0.0, atol=bound)
