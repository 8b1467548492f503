"""Each expert's rows times its own matrix: the loop against plain products, in every form of the weight."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.nn.kernels import choose
from coterie.nn.kernels.grouped import expert_product, grouped_linear, per_row
from coterie.nn.kernels.weights import ExpertWeights
from coterie.nn.quantised_tensor import QuantisedTensor
from tests.arithmetic import assert_close
from tests.nn.test_experts import COUNTS, by_expert, draw, gradients


@settings(max_examples=30, deadline=None)
@given(counts=COUNTS, inputs=st.integers(1, 24), outputs=st.integers(1, 24), seed=st.integers(0, 999))
def test_grouped_linear_equals_one_product_per_expert(counts, inputs, outputs, seed):
    rows = sum(counts)
    x, weight, upstream = draw(seed, (rows, inputs), (len(counts), outputs, inputs), (rows, outputs))
    ours, slow = grouped_linear(x, weight, tuple(counts)), by_expert(x, weight, counts)
    assert_close(ours, slow, terms=inputs, size=1.0)
    upstream = upstream.detach()
    for a, b in zip(
        gradients(ours, (x, weight), upstream), gradients(slow, (x, weight), upstream), strict=True
    ):
        assert_close(a, b, terms=max(rows, outputs), size=1.0)


def test_hand_computed():
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    weight = torch.tensor([[[1.0, 1.0]], [[9.0, 9.0]], [[1.0, -1.0]]])
    assert grouped_linear(x, weight, (1, 0, 2)).tolist() == [[3.0], [-1.0], [-1.0]]


def test_per_row_repeats_each_experts_values():
    values = torch.tensor([[1.0], [2.0], [3.0]])
    assert per_row(values, (2, 0, 1)).tolist() == [[1.0], [1.0], [3.0]]


@pytest.mark.parametrize("form", ["plain", "quantised", "factors", "quantised factors", "slices"])
@settings(max_examples=15, deadline=None)
@given(counts=st.lists(st.integers(0, 20), min_size=3, max_size=5), seed=st.integers(0, 999))
def test_the_loop_equals_the_composed_form(form, counts, seed):
    """Two experts out of three to five have factors or slices; every wanted gradient agrees."""
    counts, rows = tuple(counts), sum(counts)
    x, matrix, a, b, slices, bias, gain = draw(
        seed,
        (rows, 8),
        (len(counts), 6, 8),
        (2, 3, 8),
        (2, 6, 3),
        (2, 6, 8),
        (len(counts), 6),
        (len(counts), 6),
    )
    leaves = [x, bias, gain]
    rest = {"bias_EO": bias, "gain_EO": gain}
    weight = matrix
    if "quantised" in form:
        weight = QuantisedTensor((len(counts), 6, 8), 8, 8)
        weight.store(matrix.detach())
    else:
        leaves.append(matrix)
    if "factors" in form:
        rest |= {"a_SrI": a, "b_SOr": b, "scale": 1.5, "slots": {0: 0, 2: 1}}
        leaves += [a, b]
    if form == "slices":
        rest |= {"slices_SOI": slices, "slots": {0: 0, 2: 1}}
        leaves = [x, bias, gain, slices]
        weight = matrix.detach()
    weights = ExpertWeights(weight, **rest)
    assert choose.grouped(x, weights) == "loop"
    ours = expert_product(x, weights, counts)
    effective = weight.dequantise() if "quantised" in form else weight
    index = torch.tensor([0, 2])
    if "factors" in form:
        effective = effective.index_add(0, index, 1.5 * (b @ a))
    if form == "slices":
        effective = effective.index_copy(0, index, slices)
    slow = by_expert(x, effective, counts) * per_row(gain, counts) + per_row(bias, counts)
    assert_close(ours, slow, terms=8, depth=3, size=1.0)
    upstream = draw(seed + 1, (rows, 6))[0].detach()
    for one, other in zip(gradients(ours, leaves, upstream), gradients(slow, leaves, upstream), strict=True):
        assert_close(one, other, terms=max(rows, 8), depth=3, size=1.0)


def test_only_wanted_gradients_of_the_loop_are_computed():
    x, matrix, a, b = draw(0, (9, 4), (2, 5, 4), (1, 2, 4), (1, 5, 2))
    weights = ExpertWeights(matrix.detach(), slots={1: 0}, a_SrI=a, b_SOr=b.detach())
    y = expert_product(x.detach(), weights, (4, 5))
    (found,) = torch.autograd.grad(y.sum(), a)
    expected = b.detach()[0].sum(0)[:, None] * x.detach()[4:].sum(0)
    assert_close(found[0], expected, terms=5, depth=2)
