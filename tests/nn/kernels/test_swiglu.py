"""The activation of SwiGLU in tiles against the formula; grouped products against one expert at a time."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.nn.kernels import choose
from coterie.nn.kernels import swiglu as swiglu_module
from coterie.nn.kernels.swiglu import swiglu, swiglu_experts, swiglu_grouped
from coterie.nn.kernels.weights import ExpertWeights
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


@pytest.mark.parametrize("counts", [(3, 0, 1, 40, 0), (0, 0, 5, 0, 2), (64, 64, 64, 64, 64)])
def test_grouped_experts_are_the_experts_one_by_one(counts):
    generator = torch.Generator().manual_seed(4)
    x, gate_up, down = (
        torch.randn(shape, generator=generator) for shape in ((sum(counts), 20), (5, 48, 20), (5, 20, 24))
    )
    with torch.no_grad():
        found = swiglu_grouped(x, gate_up, down, counts)
        expected = swiglu_experts(x.double(), gate_up.double(), down.double(), counts)
    assert_close(found, expected, terms=24, depth=5, dtype=torch.float32)


def test_experts_are_grouped_where_nothing_is_learnt():
    x, gate_up, down = torch.zeros(8, 20), torch.zeros(5, 48, 20), torch.zeros(5, 20, 24)

    def kind(x, *matrices):
        return choose.expert_layer(x, True, *map(ExpertWeights, matrices))

    assert kind(x, gate_up, down) == "swiglu"  # gradients are on
    with torch.no_grad():
        assert kind(x, gate_up, down) == "grouped"
        assert kind(x[:0], gate_up, down) == "swiglu"
        assert kind(x.double(), gate_up.double(), down.double()) == "swiglu"
        assert kind(x, torch.zeros(5, 2048, 20 * 8)[:, :, :20], down) == "swiglu"  # not contiguous
        assert kind(x, gate_up, torch.zeros(5 * 20 * 24 + 1)[1:].view(5, 20, 24)) == "swiglu"  # 4 bytes on
        assert kind(torch.zeros(8, 18), torch.zeros(5, 48, 18), torch.zeros(5, 18, 24)) == "swiglu"
