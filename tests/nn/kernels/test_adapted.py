"""The adapted mixture in one function equals the composed one, gradients and routing weights included."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.nn.dispatch import LOCAL
from coterie.nn.experts import ExpertLinear, Experts
from coterie.nn.kernels import choose
from coterie.nn.kernels.adapted import adapted_mixture
from coterie.nn.lora import LoRAExpertLinear
from coterie.nn.quantised_layers import quantise_layer
from coterie.nn.router import Routing
from tests.arithmetic import assert_close, assert_norm_close

DEPTH = 4  # base and both factors of gate and up, then of down


def adapted_experts(num_experts, width, expert_width, chosen, bits=None, seed=0):
    torch.manual_seed(seed)
    experts = Experts(num_experts, width, expert_width)
    for name, part in (("gate_up", chosen[0]), ("down", chosen[1])):
        base = getattr(experts, name)
        torch.nn.init.normal_(base.weight, std=0.3).requires_grad_(False)
        base = base if bits is None else quantise_layer(base, bits, 8)
        layer = LoRAExpertLinear(base, 3, 6.0, chosen=part)
        torch.nn.init.normal_(layer.lora_B, std=0.2)
        setattr(experts, name, layer)
    return experts


def fused(x, ids, weights, experts):
    layers = (experts.gate_up.weights(x.dtype), experts.down.weights(x.dtype))
    return adapted_mixture(x, weights, *layers, LOCAL, LOCAL.plan(ids, experts.gate_up.num_experts))


def composed(x, ids, weights, experts):
    plan = LOCAL.plan(ids, experts.gate_up.num_experts)
    return LOCAL.combine(experts(LOCAL.dispatch(x, None, plan), plan.counts), weights, plan)


@pytest.mark.parametrize("bits", [None, 4])
@settings(max_examples=20, deadline=None)
@given(tokens=st.integers(1, 60), top_k=st.integers(1, 4), data=st.data())
def test_equals_dispatch_experts_combine(bits, tokens, top_k, data):
    num_experts = data.draw(st.integers(top_k, 7))
    chosen = [
        sorted(data.draw(st.sets(st.integers(0, num_experts - 1), min_size=1)))
        if data.draw(st.booleans())
        else None
        for _ in range(2)
    ]
    experts = adapted_experts(num_experts, 9, 5, chosen, bits)
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    ids = torch.rand(tokens, num_experts, generator=generator).topk(top_k, dim=1).indices
    x = torch.randn(tokens, 9, generator=generator).requires_grad_()
    weights = torch.rand(tokens, top_k, generator=generator).requires_grad_()
    upstream = torch.randn(tokens, 9, generator=generator)
    leaves = (x, weights, *[p for p in experts.parameters() if p.requires_grad])
    ours = fused(x, ids, weights, experts)
    slow = composed(x, ids, weights, experts)
    sums = max(9, ids.numel()), DEPTH
    assert_norm_close(ours, slow, *sums)
    for a, b in zip(
        torch.autograd.grad(ours, leaves, upstream), torch.autograd.grad(slow, leaves, upstream), strict=True
    ):
        assert_norm_close(a, b, *sums, size=float(upstream.norm()))


def test_padded_rows_and_what_autograd_keeps():
    """2048 rows on 4 experts are padded to round numbers; nothing as large as the experts' output is kept."""
    experts = adapted_experts(4, 32, 16, (None, None))
    x, ids = torch.randn(1024, 32, requires_grad=True), torch.rand(1024, 4).topk(2, dim=1).indices
    weights = torch.rand(1024, 2)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(tuple(t.shape)) or t, lambda t: t):
        ours = fused(x, ids, weights, experts)
    rows = [shape for shape in kept if shape[0] >= 2048]
    assert len(rows) == 1 and rows[0][1] == 32 and rows[0][0] > 2048
    slow = composed(x, ids, weights, experts)
    assert_close(ours, slow, terms=32, depth=DEPTH)
    for leaf in (x, experts.gate_up.lora_A, experts.down.lora_B):
        found, expected = (torch.autograd.grad(y.sum(), leaf, retain_graph=True)[0] for y in (ours, slow))
        assert_norm_close(found, expected, terms=ids.numel(), depth=DEPTH)


def test_where_it_is_chosen_and_that_mix_takes_it():
    x, weights = torch.randn(200, 9), torch.rand(200, 2)
    ids = torch.rand(200, 4).topk(2, dim=1).indices
    experts = adapted_experts(4, 9, 5, (None, None))

    def kind(experts, x=x, rows=400):
        layers = (experts.gate_up.weights(x.dtype), experts.down.weights(x.dtype))
        return choose.mixture(x, rows, experts.is_swiglu, *layers)

    assert kind(experts) == "adapted"
    assert torch.equal(experts.mix(x, Routing(ids, weights, weights)), fused(x, ids, weights, experts))
    assert kind(experts, rows=40) == kind(experts, x.to("meta")) == "composed"
    experts.down.dropout = 0.1
    assert kind(experts.train()) == "composed" and kind(experts.eval()) == "adapted"
    experts.down.weight.requires_grad_(True)
    assert kind(experts) == "composed"
    experts.down = ExpertLinear(4, 5, 9)
    assert kind(experts) == "composed" and kind(Experts(4, 9, 5)) == "composed"
