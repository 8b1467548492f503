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

Coarser types (bfloat16) are multiplied in float32 and added up in float32, by processors with units for them
and by those without. A sum of such numbers is rounded to the coarse type once, whatever its length:

    GROWTH * sqrt(2 * depth * (u_coarse ** 2 + terms * u_float32 ** 2)) * size

Use `assert_close(ours, slow, terms=64)` for one operation, `assert_model_close(config, ours, slow, tokens)`
for a whole model; `approx` and `approx_model` are the same for numbers. A float32 result of a computation in
a coarser type names that type as `dtype`. `size` is the size of what was added, where that is larger than the
result.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from coterie.config import FeedForwardConfig, MLAConfig, ModelConfig
from coterie.config.mixers import CHUNK, STATE_MIXERS

GROWTH = 5.0
# queries and keys, scores, values, output, gate and up, down: each reads the one before
OPERATIONS_PER_BLOCK = 6
# unit length, decays, the system within a chunk and its solution, the state read, written and read again: a
# norm of single heads follows, which enlarges the errors of small results
OPERATIONS_PER_STATE = 24
FORWARD_AND_BACKWARD = 3  # backward computes two products for each one of forward


def tolerance(
    expected: Tensor | float, terms: int, depth: int = 1, dtype: torch.dtype = torch.float32
) -> float:
    """Largest absolute difference between two computations of `expected` in `dtype`.

    `terms`: length of the longest sum. `depth`: number of such sums that read each other's results. `size` of
    the formula is the largest finite magnitude of `expected`, which may also be given as a number.
    """
    size = expected if isinstance(expected, float) else largest(expected)
    u, accumulated = unit_roundoff(dtype), unit_roundoff(torch.float32)
    variance = u**2 + terms * accumulated**2 if u > accumulated else terms * u**2
    return GROWTH * math.sqrt(2 * depth * variance) * size


def model_sums(config: ModelConfig, tokens: int = 1, passes: int = 1) -> tuple[int, int]:
    """`terms` and `depth` of a whole model: its longest sum, and the depth of its blocks and head.

    `tokens`: length of the longest sequence, because attention sums over tokens; for gradients the number of
    all tokens. `passes`: how often results go through the depth of the model (`FORWARD_AND_BACKWARD` for
    gradients).
    """
    widths, depth = [config.width, tokens], 1
    for block in config.blocks:
        ffn, attention = block.ffn, block.attention
        if ffn is not None:
            widths.append(ffn.width if isinstance(ffn, FeedForwardConfig) else ffn.expert_width)
        depth += OPERATIONS_PER_BLOCK
        depth += 2 * (block.norms == "sandwich")  # norms of results, whose sums are further ones
        depth += 2 * (block.per_layer_width is not None)  # down to the layer's input and up again
        if attention is None:
            continue
        if isinstance(attention, STATE_MIXERS):  # the state's sums, and the system within a chunk
            widths += [attention.output_width, CHUNK]
            depth += OPERATIONS_PER_STATE
            continue
        widths.append(attention.num_heads * attention.head_dim)
        if isinstance(attention, MLAConfig):  # queries, keys and values go through two products, not one
            widths.append(attention.kv_rank)
            depth += 3
    depth += OPERATIONS_PER_BLOCK * config.num_mtp_layers
    return max(widths), depth * passes


def mean_sums(config: ModelConfig, passes: int = 1) -> tuple[int, int]:
    """The same for a mean or sum over many tokens, in which the errors of single tokens average out."""
    return 1, model_sums(config, passes=passes)[1]


def model_tolerance(
    config: ModelConfig, expected: Tensor | float, tokens: int = 1, dtype: torch.dtype = torch.float32
) -> float:
    """`tolerance` of what a whole model computes."""
    return tolerance(expected, *model_sums(config, tokens), dtype)


def unit_roundoff(dtype: torch.dtype) -> float:
    """Half the distance between 1 and the next number of `dtype`."""
    return torch.finfo(dtype).eps / 2


def largest(x: Tensor) -> float:
    """The largest finite magnitude in `x` (at least 1e-30, so that zeros have a tolerance too)."""
    finite = x.detach().float().abs()
    finite = finite[finite.isfinite()]
    return max(float(finite.max()) if finite.numel() else 0.0, 1e-30)


def assert_close(
    actual: Tensor,
    expected: Tensor,
    terms: int,
    depth: int = 1,
    dtype: torch.dtype | None = None,
    size: float = 0.0,
    name: str = "",
) -> None:
    """`actual` is `expected` up to rounding: every element, by default in the coarser of the two types.

    `size`: magnitude of the numbers that were added, where it may exceed that of `expected`. `name` begins
    the message.
    """
    bound = tolerance(max(size, largest(expected)), terms, depth, dtype or coarser(actual, expected))
    torch.testing.assert_close(
        actual.double(),
        expected.double(),
        rtol=0.0,
        atol=bound,
        msg=lambda text: f"{name}: {text}" if name else text,
    )


def assert_norm_close(
    actual: Tensor,
    expected: Tensor,
    terms: int,
    depth: int = 1,
    dtype: torch.dtype | None = None,
    size: float = 0.0,
) -> None:
    """The difference as a whole is small next to `expected` as a whole; single elements may be far off.

    For results of several roundings to a coarse type, where cancellation leaves some elements without digits.
    """
    apart, whole = (float(x.detach().double().norm()) for x in (actual.double() - expected, expected))
    bound = tolerance(max(size, whole), terms, depth, dtype or coarser(actual, expected))
    assert apart <= bound, f"the difference has norm {apart:.3g}, more than {bound:.3g}"


def assert_model_close(
    config: ModelConfig,
    actual: Tensor,
    expected: Tensor,
    tokens: int,
    dtype: torch.dtype | None = None,
    passes: int = 1,
    size: float = 0.0,
    name: str = "",
) -> None:
    """`assert_close` for what a whole model computes; the arguments are those of `model_sums`."""
    assert_close(actual, expected, *model_sums(config, tokens, passes), dtype, size, name)


def approx(
    expected: float | Sequence[float],
    terms: int,
    depth: int = 1,
    dtype: torch.dtype = torch.float32,
    size: float = 0.0,
) -> Any:
    """`pytest.approx` up to rounding: for a number, or for several of one size."""
    size = max(size, largest(torch.tensor(expected, dtype=torch.float64)))
    return pytest.approx(expected, rel=0.0, abs=tolerance(size, terms, depth, dtype))


def approx_model(
    config: ModelConfig, expected: float | Sequence[float], tokens: int, size: float = 0.0
) -> Any:
    """`approx` for what a whole model computes in float32."""
    return approx(expected, *model_sums(config, tokens), size=size)


def coarser(*tensors: Tensor) -> torch.dtype:
    """The floating-point type of `tensors` with the largest roundoff."""
    dtypes = [x.dtype for x in tensors if x.is_floating_point()]
    return max(dtypes, key=lambda dtype: torch.finfo(dtype).eps)
