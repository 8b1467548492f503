"""Layers of experts: forms of their weights, biases, dtypes, and the fused function against the formula."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.nn.experts import ExpertLinear, Experts
from coterie.nn.kernels.weights import ExpertWeights
from tests.arithmetic import assert_close, assert_norm_close

COUNTS = st.lists(st.integers(0, 40), min_size=1, max_size=7)


def by_expert(x, weight, counts):
    return torch.cat([part @ weight[e].t() for e, part in enumerate(x.split(list(counts)))])


def gradients(y, leaves, upstream):
    return torch.autograd.grad(y, leaves, upstream)


def draw(seed, *shapes):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=generator, requires_grad=True) for shape in shapes]


def test_expert_without_rows_gets_a_zero_gradient():
    experts = Experts(3, 8, 4)
    experts(torch.randn(30, 8), (18, 0, 12)).sum().backward()
    for layer in (experts.gate_up, experts.down):
        assert bool((layer.weight.grad[1] == 0).all())
        assert bool((layer.weight.grad[[0, 2]] != 0).any(dim=(1, 2)).all())


class OtherLinear(ExpertLinear):
    """Another form of the weight, with a bias that adds nothing: the fused function does not take it."""

    calls = 0

    def weights(self, dtype):
        self.calls += 1
        return ExpertWeights((2 * self.weight).to(dtype), torch.zeros(self.num_experts, self.out_features))


def other_experts(plain):
    other = Experts(plain.gate_up.num_experts, plain.gate_up.in_features, plain.down.in_features)
    for name in ("gate_up", "down"):
        source = getattr(plain, name)
        layer = OtherLinear(source.num_experts, source.in_features, source.out_features)
        layer.weight = torch.nn.Parameter(source.weight.detach() / 2)
        setattr(other, name, layer)
    return other


@settings(max_examples=20, deadline=None)
@given(counts=COUNTS, width=st.integers(1, 12), expert_width=st.integers(1, 12), seed=st.integers(0, 999))
def test_fused_layer_equals_the_composable_path_and_the_formula(counts, width, expert_width, seed):
    torch.manual_seed(seed)
    plain = Experts(len(counts), width, expert_width)
    for parameter in plain.parameters():
        torch.nn.init.normal_(parameter)
    other = other_experts(plain)
    x = torch.randn(sum(counts), width, requires_grad=True)
    upstream = torch.randn(sum(counts), width)
    fused, composed = plain(x, tuple(counts)), other(x, tuple(counts))
    hidden = by_expert(x, plain.gate_up.weight, counts)
    formula = by_expert(
        F.silu(hidden[:, :expert_width]) * hidden[:, expert_width:], plain.down.weight, counts
    )
    widest = max(width, expert_width)
    assert_close(fused, formula, terms=widest, depth=2, size=1.0)
    assert_close(composed, formula, terms=widest, depth=2, size=1.0)
    leaves = (x, plain.gate_up.weight, plain.down.weight)
    exact = gradients(formula, leaves, upstream)
    for a, b in zip(gradients(fused, leaves, upstream), exact, strict=True):
        assert_close(a, b, terms=max(widest, sum(counts)), depth=3, size=1.0)
    halves = gradients(composed, (x, other.gate_up.weight, other.down.weight), upstream)
    for a, b, factor in zip(halves, exact, (1, 2, 2), strict=True):
        assert_close(a, factor * b, terms=max(widest, sum(counts)), depth=3, size=1.0)
    assert other.gate_up.calls == other.down.calls == 1


def test_bias_is_added_to_each_experts_own_rows():
    layer = ExpertLinear(3, 4, 2, bias=True)
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]))
    y = layer(torch.randn(3, 4), (2, 0, 1))
    assert y.tolist() == [[1.0, 2.0], [1.0, 2.0], [5.0, 6.0]]
    y.sum().backward()
    assert layer.bias.grad.tolist() == [[2.0, 2.0], [0.0, 0.0], [1.0, 1.0]]


@pytest.mark.parametrize("path", ["fused", "composed"])
def test_bfloat16_is_near_float32_and_gradients_are_float32(path):
    torch.manual_seed(1)
    experts = Experts(4, 32, 16)
    counts, x = (70, 3, 0, 55), torch.randn(128, 32)
    exact = experts(x, counts).detach()
    if path == "composed":
        experts = other_experts(experts)
    y = experts(x.bfloat16(), counts)
    assert y.dtype == torch.bfloat16
    assert_norm_close(y, exact, terms=32, depth=2)  # input and weight, activation and weight
    y.float().sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in experts.parameters())


def test_no_expert_weight_is_copied_in_float32():
    experts = Experts(4, 32, 16)
    x = torch.randn(16, 32, requires_grad=True)
    saved = experts(x, (4, 4, 4, 4)).grad_fn.saved_tensors
    pointers = {tensor.data_ptr() for tensor in saved}
    assert {experts.gate_up.weight.data_ptr(), experts.down.weight.data_ptr()} <= pointers
