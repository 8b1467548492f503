"""Factors beside frozen weights: against the materialised weight, autograd, finite differences and peft's
DoRA.
"""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model

from coterie.config.feed_forward import BalanceConfig, RouterConfig
from coterie.nn.experts import ExpertLinear, Experts
from coterie.nn.kernels.grouped import grouped_linear
from coterie.nn.linear import Linear
from coterie.nn.lora import LoRAExpertLinear, LoRALinear, LoRARouter
from coterie.nn.router import Router
from tests.arithmetic import assert_close, assert_norm_close

DEPTH = 4  # base, both factors, DoRA's norm
COUNTS = st.lists(st.integers(0, 30), min_size=1, max_size=6)


def randomised(layer, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.3 * noise if name.endswith("magnitude") else 0.5 * noise)
            if name == "lora_B":  # below the weight, as in use: DoRA's norm loses digits where the two cancel
                parameter.mul_(0.2)
    if getattr(layer, "base_square", None) is not None:
        layer.base_square = torch.stack(
            [w.detach().square().sum(-1) for w in layer.adapted_weights()]
        ).reshape(layer.lora_magnitude.shape)
    for name, parameter in layer.named_parameters():
        parameter.requires_grad_(name.startswith("lora_"))
    return layer


def expert_layer(num_experts, inputs, outputs, rank, dora=False, chosen=None, bias=False, seed=0):
    base = ExpertLinear(num_experts, inputs, outputs, bias=bias)
    return randomised(LoRAExpertLinear(base, rank, 2.5 * rank, dora=dora, chosen=chosen), seed)


def by_hand(layer, x, counts):
    """One expert after another with the adapted weight written out; its row norms are constants."""
    parts = []
    slot_of = {expert: slot for slot, expert in enumerate(layer.chosen)}
    for expert, rows in enumerate(x.split(list(counts))):
        weight = layer.weight[expert]
        if expert in slot_of:
            slot = slot_of[expert]
            weight = weight + layer.scale * layer.lora_B[slot] @ layer.lora_A[slot]
            if layer.lora_magnitude is not None:
                weight = weight * (layer.lora_magnitude[slot] / weight.norm(dim=1).detach())[:, None]
        parts.append(rows @ weight.t() + (layer.bias[expert] if layer.bias is not None else 0))
    return torch.cat(parts)


@pytest.mark.parametrize("dora", [False, True])
@settings(max_examples=25, deadline=None)
@given(
    counts=COUNTS,
    inputs=st.integers(4, 20),
    outputs=st.integers(1, 20),
    rank=st.integers(1, 8),
    data=st.data(),
)
def test_experts_equal_autograd_through_the_written_out_weight(dora, counts, inputs, outputs, rank, data):
    chosen = data.draw(st.lists(st.integers(0, len(counts) - 1), min_size=1, unique=True).map(sorted))
    layer = expert_layer(len(counts), inputs, outputs, rank, dora, chosen, bias=data.draw(st.booleans()))
    x = torch.randn(sum(counts), inputs, requires_grad=True)
    upstream = torch.randn(sum(counts), outputs)
    leaves = (x, *[p for p in layer.parameters() if p.requires_grad])
    slow = by_hand(layer, x, counts)
    sums = max(inputs, outputs, sum(counts)), DEPTH
    for ours in (layer(x, tuple(counts)), scaled_rows(layer, x, tuple(counts))):
        assert_norm_close(ours, slow, *sums)
        found = torch.autograd.grad(ours, leaves, upstream)
        for a, b in zip(found, torch.autograd.grad(slow, leaves, upstream, retain_graph=True), strict=True):
            assert_norm_close(a, b, *sums, size=float(upstream.norm()))


def scaled_rows(layer, x, counts):
    """The other way through the layer, the one for dropout and GPUs: chosen by a weight that could be
    trained.
    """
    layer.weight.requires_grad_(True)
    y = layer(x, counts)
    layer.weight.requires_grad_(False)
    return y


def test_gradients_by_finite_differences_with_an_expert_that_sees_nothing():
    layer = expert_layer(4, 5, 3, 2, dora=False).double()
    x = torch.randn(9, 5, dtype=torch.double, requires_grad=True)

    def run(x, a, b):
        return torch.func.functional_call(layer, {"lora_A": a, "lora_B": b}, (x, (4, 0, 3, 2)))

    leaves = (x, layer.lora_A.detach().requires_grad_(), layer.lora_B.detach().requires_grad_())
    assert torch.autograd.gradcheck(run, leaves)
    layer(x, (4, 0, 3, 2)).sum().backward()
    assert not layer.lora_A.grad[1].any() and not layer.lora_B.grad[1].any()
    assert layer.lora_A.grad[[0, 2, 3]].flatten(1).any(1).all()


def test_no_rows_at_all():
    layer = expert_layer(3, 4, 6, 2, dora=True)
    y = layer(torch.empty(0, 4, requires_grad=True), (0, 0, 0))
    y.sum().backward()
    assert y.shape == (0, 6) and not layer.lora_A.grad.any()


@pytest.mark.parametrize("dora", [False, True])
def test_at_the_start_nothing_changes_by_a_bit(dora):
    torch.manual_seed(0)
    x, counts = torch.randn(70, 24), (40, 0, 30)
    experts, linear = ExpertLinear(3, 24, 16, bias=True), Linear(24, 16, bias=True)
    router = Router(24, RouterConfig(num_experts=5, top_k=2, bias=True), BalanceConfig())
    with torch.no_grad():
        for parameter in (*experts.parameters(), *linear.parameters(), *router.parameters()):
            parameter.normal_()
    before = experts(x, counts), linear(x), router(x).weights_TK
    for training in (False, True):
        adapted = [
            LoRAExpertLinear(experts, 4, 8.0, 0.3, dora),
            LoRALinear(linear, 4, 8.0, 0.3, dora),
            LoRARouter(router, 4, 8.0, 0.3, dora),
        ]
        adapted = [layer.train(training) for layer in adapted]
        after = adapted[0](x, counts), adapted[1](x), adapted[2](x).weights_TK
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
        assert adapted[0].weight is experts.weight and adapted[1].weight is linear.weight


@pytest.mark.parametrize("dora", [False, True])
def test_merged_layers_are_plain_and_give_the_same(dora):
    x, counts = torch.randn(60, 12), (20, 0, 25, 15)
    layer = expert_layer(4, 12, 8, 3, dora, chosen=[0, 2], bias=True)
    linear = randomised(LoRALinear(Linear(12, 8, bias=True), 3, 6.0, dora=dora), 1)
    router = randomised(
        LoRARouter(Router(12, RouterConfig(num_experts=6, top_k=2), BalanceConfig()), 3, 6.0, dora=dora)
    )
    before = layer(x, counts), linear(x), router.logits(x)
    names = [layer.effective_weight(), linear.effective_weight(), router.effective_weight()]
    plain = [layer.merged(), linear.merged(), router.merged()]
    assert [type(p) for p in plain] == [ExpertLinear, Linear, Router]
    for merged, expected in zip(plain, names, strict=True):
        assert_close(merged.weight.detach(), expected.detach(), terms=3, depth=2)
    after = plain[0](x, counts), plain[1](x), plain[2].logits(x)
    for a, b in zip(before, after, strict=True):
        assert_close(a, b, terms=12, depth=DEPTH)
    assert not any(parameter.is_meta for p in plain for parameter in p.parameters())


@pytest.mark.parametrize("dora", [False, True])
def test_linear_equals_peft(dora):
    reference = torch.nn.Sequential(torch.nn.Linear(10, 7))
    base = Linear(10, 7, bias=True)
    with torch.no_grad():
        reference[0].weight.copy_(base.weight.normal_())
        reference[0].bias.copy_(base.bias.normal_())
    theirs = get_peft_model(reference, LoraConfig(r=3, lora_alpha=5, target_modules=["0"], use_dora=dora))
    ours = randomised(LoRALinear(base, 3, 5.0, dora=dora), 3)
    wrapper = theirs.base_model.model[0]
    with torch.no_grad():
        base.weight.copy_(reference[0].base_layer.weight)
        base.bias.copy_(reference[0].base_layer.bias)
        wrapper.lora_A["default"].weight.copy_(ours.lora_A)
        wrapper.lora_B["default"].weight.copy_(ours.lora_B)
        if dora:
            ours.base_square = base.weight.square().sum(-1)
            wrapper.lora_magnitude_vector["default"].weight.copy_(ours.lora_magnitude)
    x = torch.randn(20, 10)
    ours(x).square().sum().backward()
    theirs(x).square().sum().backward()
    assert_close(ours(x), theirs(x), terms=10, depth=DEPTH)
    pairs = [(ours.lora_A, wrapper.lora_A["default"]), (ours.lora_B, wrapper.lora_B["default"])]
    pairs += [(ours.lora_magnitude, wrapper.lora_magnitude_vector["default"])] if dora else []
    for a, b in pairs:
        assert_close(a.grad, b.weight.grad, terms=20, depth=DEPTH)


def test_dropout_acts_on_what_the_factors_read_and_only_in_training():
    layer = expert_layer(2, 400, 3, 2)
    layer.dropout = 0.5
    x, counts = torch.ones(2, 400), (1, 1)
    exact = by_hand(layer, x, counts)
    base = grouped_linear(x, layer.weight, counts)
    assert_close(layer.eval()(x, counts), exact, terms=400, depth=2)
    layer.train()
    torch.manual_seed(0)
    draws = torch.stack([layer(x, counts) for _ in range(300)])
    draws = draws.detach()
    assert float(draws.std(0).min()) > 0.1
    noise = draws.std(0) / 300**0.5
    assert bool(((draws.mean(0) - exact).abs() < 5 * noise + 1e-4).all())
    layer.lora_B.data.zero_()
    assert_close(layer(x, counts), base, terms=400)


def test_a_layer_of_experts_takes_the_adapted_path():
    experts = Experts(3, 8, 4)
    plain = copy.deepcopy(experts)
    experts.gate_up = expert_layer(3, 8, 8, 2)
    experts.down = expert_layer(3, 4, 8, 2)
    for name in ("gate_up", "down"):
        with torch.no_grad():
            getattr(plain, name).weight.copy_(getattr(experts, name).effective_weight())
    x, counts = torch.randn(12, 8), (5, 0, 7)
    assert_close(experts(x, counts), plain(x, counts), terms=8, depth=2 * DEPTH)


def test_bfloat16_weights_keep_fp32_factors_and_gradients():
    layer = expert_layer(3, 16, 8, 4)
    exact = layer(x := torch.randn(50, 16), counts := (20, 0, 30)).detach()
    layer.weight.data = layer.weight.data.bfloat16()
    y = layer(x.bfloat16(), counts)
    y.float().sum().backward()
    assert y.dtype == torch.bfloat16 and layer.lora_A.grad.dtype == torch.float32
    assert_norm_close(y, exact, terms=16, depth=2)
