"""The activation of SwiGLU in tiles against the formula."""

from __future__ import annotations

import pytest
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.nn.kernels import swiglu as swiglu_module
from coterie.nn.kernels.swiglu import swiglu
from tests.arithmetic import assert_close
from tests.nn.test_experts import draw, gradients


@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(0, 20),
    width=st.integers(1, 20),
    tile=st.sampled_from([1, 30, 1 << 16]),
    seed=st.integers(0, 99),
)
def test_swiglu_equals_the_formula_whatever_the_tile(rows, width, tile, seed):
    both, upstream = draw(seed, (rows, 2 * width), (rows, width))
    gate, up = both.chunk(2, dim=1)  # views with a stride, as in the experts
    upstream = upstream.detach()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(swiglu_module, "TILE", tile)
        ours = swiglu(gate, up)
        gradient = gradients(ours, (both,), upstream)[0]
    slow = F.silu(gate) * up
    assert_close(ours, slow, terms=1, depth=3)  # exponential, quotient, product
    assert_close(gradient, gradients(slow, (both,), upstream)[0], terms=1, depth=6)
