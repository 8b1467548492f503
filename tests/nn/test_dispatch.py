"""Moving tokens to their experts and back against running every expert on every token."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.nn.dispatch import LocalDispatcher
from coterie.nn.experts import Experts
from coterie.nn.kernels.choose import row_multiple
from coterie.nn.kernels.grouped import grouped_linear
from tests.arithmetic import FORWARD_AND_BACKWARD, assert_close, tolerance, unit_roundoff

CPU = torch.device("cpu")


def chosen_experts(num_tokens, num_chosen, num_experts, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(num_tokens, num_experts, generator=generator).topk(num_chosen).indices


def run_every_expert(x, ids, weights, weight, on_input):
    """The reference: every expert on every token, then keep what was chosen."""
    total = torch.zeros(x.shape[0], weight.shape[1], dtype=x.dtype)
    for expert in range(weight.shape[0]):
        for choice in range(ids.shape[1]):
            chosen = (ids[:, choice] == expert).to(x.dtype)[:, None]
            scale = weights[:, choice, None]
            y = torch.tanh((x * scale if on_input else x) @ weight[expert].t())
            total = total + chosen * (y if on_input else scale * y)
    return total


# 700 rows over 4 experts are padded to round numbers, the small cases are not.
CASES = st.one_of(
    st.tuples(st.integers(1, 12), st.integers(1, 3), st.integers(3, 8)),
    st.tuples(st.sampled_from([140, 350, 353]), st.just(2), st.sampled_from([2, 4])),
)


@settings(max_examples=30, deadline=None)
@given(case=CASES, on_input=st.booleans(), seed=st.integers(0, 999))
def test_equals_run_every_expert(case, on_input, seed):
    num_tokens, num_chosen, num_experts = case
    ids = chosen_experts(num_tokens, num_chosen, num_experts, seed)
    torch.manual_seed(seed)
    x = torch.randn(num_tokens, 6, requires_grad=True)
    weights = torch.rand(num_tokens, num_chosen, requires_grad=True)
    weight = torch.randn(num_experts, 5, 6, requires_grad=True)
    dispatcher = LocalDispatcher()
    plan = dispatcher.plan(ids, num_experts)
    rows, counts = dispatcher.dispatch(x, weights if on_input else None, plan), plan.counts
    assert sum(counts) == rows.shape[0]
    y = dispatcher.combine(
        torch.tanh(grouped_linear(rows, weight, counts)), None if on_input else weights, plan
    )
    slow = run_every_expert(x, ids, weights, weight, on_input)
    assert_close(y, slow, terms=6, depth=2, size=1.0)
    upstream = torch.randn_like(y)
    ours = torch.autograd.grad(y, (x, weights, weight), upstream)
    for a, b in zip(ours, torch.autograd.grad(slow, (x, weights, weight), upstream), strict=True):
        assert_close(a, b, terms=ids.numel(), depth=2 * FORWARD_AND_BACKWARD, size=1.0)


def test_hand_computed_order():
    x = torch.tensor([[1.0], [2.0], [3.0]])
    ids = torch.tensor([[2, 0], [0, 2], [2, 1]])
    dispatcher = LocalDispatcher()
    plan = dispatcher.plan(ids, 4)
    rows, counts = dispatcher.dispatch(x, None, plan), plan.counts
    assert rows.flatten().tolist() == [1, 2, 3, 1, 2, 3] and counts == (2, 1, 3, 0)
    y = dispatcher.combine(rows * 10, torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), plan)
    assert y.flatten().tolist() == [30, 140, 330]
    assert dispatcher.combine(rows * 10, None, plan).flatten().tolist() == [20, 40, 60]


@settings(max_examples=60, deadline=None)
@given(case=CASES, seed=st.integers(0, 999))
def test_every_choice_has_its_own_row_and_padding_reads_zero(case, seed):
    num_tokens, num_chosen, num_experts = case
    ids = chosen_experts(num_tokens, num_chosen, num_experts, seed)
    x = torch.randn(num_tokens, 3) + 10
    plan = LocalDispatcher().plan(ids, num_experts)
    rows, counts = LocalDispatcher().dispatch(x, None, plan), plan.counts
    owner = torch.repeat_interleave(torch.arange(num_experts), torch.tensor(counts))
    assert torch.equal(owner[plan.row_TK], ids)
    assert plan.row_TK.unique().numel() == ids.numel()
    assert torch.equal(rows[plan.row_TK], x[:, None].expand(-1, num_chosen, -1))
    if plan.padding_N is not None:
        assert bool((rows[plan.padding_N] == 0).all())
        assert set(plan.padding_N.tolist()).isdisjoint(plan.row_TK.flatten().tolist())
    multiple = row_multiple(ids.numel(), num_experts, CPU)
    true = torch.bincount(ids.flatten(), minlength=num_experts).tolist()
    assert list(counts) == [-(-count // multiple) * multiple for count in true]


def test_padding_changes_no_gradient_of_experts():
    torch.manual_seed(5)
    ids, x = chosen_experts(333, 2, 4, 5), torch.randn(333, 8)
    experts, dispatcher = Experts(4, 8, 4), LocalDispatcher()
    plan = dispatcher.plan(ids, 4)
    rows, counts = dispatcher.dispatch(x, None, plan), plan.counts
    assert plan.padding_N is not None
    upstream = torch.randn(333, 8)
    (dispatcher.combine(experts(rows, counts), None, plan) * upstream).sum().backward()
    padded = [p.grad.clone() for p in experts.parameters()]
    experts.zero_grad()
    flat = ids.flatten()
    order = flat.argsort(stable=True)
    true = tuple(torch.bincount(flat, minlength=4).tolist())
    (
        experts(x.repeat_interleave(2, 0)[order], true) * upstream.repeat_interleave(2, 0)[order]
    ).sum().backward()
    for a, p in zip(padded, experts.parameters(), strict=True):
        assert_close(a, p.grad, terms=ids.numel(), depth=2 * FORWARD_AND_BACKWARD)


@pytest.mark.parametrize("num_experts", [256, 257, 300])
def test_many_experts_sort_in_order(num_experts):
    ids = torch.arange(num_experts - 1, -1, -1)[:, None]
    plan = LocalDispatcher().plan(ids, num_experts)
    rows, counts = LocalDispatcher().dispatch(ids.float(), None, plan), plan.counts
    assert rows.flatten().tolist() == list(range(num_experts)) and counts == (1,) * num_experts


def test_bfloat16_combine_adds_in_high_precision():
    torch.manual_seed(2)
    ids = chosen_experts(64, 8, 16, 0)
    dispatcher = LocalDispatcher()
    x = torch.randn(64, 32).bfloat16()
    plan = dispatcher.plan(ids, 16)
    rows = dispatcher.dispatch(x, None, plan)
    weights = torch.rand(64, 8).bfloat16()
    y = dispatcher.combine(rows, weights, plan)
    exact = x.double() * weights.double().sum(1, keepdim=True)
    # one rounding at the end, which moves a number by at most the unit roundoff
    rtol, atol = unit_roundoff(torch.bfloat16), tolerance(exact, terms=8)
    torch.testing.assert_close(y.double(), exact, rtol=rtol, atol=atol)
