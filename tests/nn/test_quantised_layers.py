"""Rounded weights: errors within half a step, blocks that mix neither experts nor rows, products as if
widened.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.nn import quantised_layers
from coterie.nn.experts import ExpertLinear
from coterie.nn.kernels.grouped import grouped_linear, per_row
from coterie.nn.linear import Linear, linear
from coterie.nn.lora import LoRAExpertLinear, LoRALinear
from coterie.nn.quantised_layers import QuantisedExpertLinear, QuantisedLinear, quantise_layer
from coterie.nn.quantised_tensor import QuantisedTensor
from tests.arithmetic import FORWARD_AND_BACKWARD, assert_close


def rounded(weight, bits, block):
    result = QuantisedTensor(tuple(weight.shape), bits, block)
    result.store(weight)
    return result


@settings(max_examples=40, deadline=None)
@given(
    bits=st.sampled_from([4, 8]),
    block=st.integers(1, 70),
    inputs=st.integers(1, 130),
    scale=st.sampled_from([1e-6, 0.02, 300.0]),
    seed=st.integers(0, 99),
)
def test_every_number_is_within_a_step_of_its_block(bits, block, inputs, scale, seed):
    weight = torch.randn(2, 3, inputs, generator=torch.Generator().manual_seed(seed)) * scale
    weight[0, 1] = 0.0
    quantised = rounded(weight, bits, block)
    wide = quantised.dequantise()
    assert wide.shape == weight.shape and not wide[0, 1].any()
    for start in range(0, inputs, quantised.block):
        part, found = weight[..., start : start + quantised.block], wide[..., start : start + quantised.block]
        largest = part.abs().amax(-1, keepdim=True)
        # half a step; the far side of a 4-bit block ends one step earlier
        allowed = largest / 127 * 0.51 if bits == 8 else largest / 8 * 1.02
        assert bool(((part - found).abs() <= allowed + 1e-12).all())
        if bits == 4:
            near = (part * part.gather(-1, part.abs().argmax(-1, keepdim=True))) >= 0
            assert bool(
                ((part - found).abs()[near] <= (largest / 8 * 0.51 + 1e-12).expand_as(part)[near]).all()
            )


@pytest.mark.parametrize("bits", [4, 8])
def test_a_large_matrix_is_multiplied_in_parts(monkeypatch, bits):
    monkeypatch.setattr(quantised_layers, "_WIDENED", 1 << 12)
    torch.manual_seed(0)
    weight, x = rounded(torch.randn(450, 96), bits, 32), torch.randn(5, 96)
    parts = []
    rows = QuantisedTensor.rows
    monkeypatch.setattr(QuantisedTensor, "rows", lambda *given: parts.append(given[1:]) or rows(*given))
    y = quantised_layers.quantised_linear(x, weight)
    assert parts == [(start, min(start + 64, 450)) for start in range(0, 450, 64)]
    assert_close(y, x.double() @ weight.dequantise().double().T, terms=96, dtype=torch.float32)


def test_hand_computed():
    weight = torch.tensor([[8.0, -1.0, 3.0, 0.4]])
    four = rounded(weight, 4, 4)
    assert four.scales.tolist() == [[-1.0]] and four.dequantise().tolist() == [[8.0, -1.0, 3.0, 0.0]]
    assert four.codes.tolist() == [[[0 | (5 << 4), 9 | (8 << 4)]]]
    eight = rounded(weight / 8 * 127, 8, 2)
    assert eight.dequantise()[0, :2].tolist() == [127.0, -16.0]


@pytest.mark.parametrize("bits", [4, 8])
def test_an_outlier_spoils_its_own_block_alone(bits):
    weight = torch.randn(3, 4, 64) * 0.02
    before = rounded(weight, bits, 16).dequantise()
    weight[1, 2, 5] = 1000.0
    after = rounded(weight, bits, 16).dequantise()
    changed = before != after
    assert changed[1, 2, :16].any()
    changed[1, 2, :16] = False
    assert not changed.any()


@pytest.mark.parametrize(("bits", "effective"), [(4, 4.25), (8, 8.25)])
def test_effective_bits(bits, effective):
    assert 8 * rounded(torch.randn(2, 3, 128), bits, 64).nbytes / (2 * 3 * 128) == effective


def test_noise_is_what_the_bits_allow():
    weight = torch.randn(64, 512, generator=torch.Generator().manual_seed(0))
    noise = {bits: float((rounded(weight, bits, 64).dequantise() - weight).std()) for bits in (4, 8)}
    assert noise[8] < 0.007 and noise[4] < 0.11


@pytest.mark.parametrize("bits", [4, 8])
@settings(max_examples=15, deadline=None)
@given(
    counts=st.lists(st.integers(0, 20), min_size=1, max_size=5),
    inputs=st.integers(1, 40),
    seed=st.integers(0, 99),
)
def test_layers_equal_their_widened_weights(bits, counts, inputs, seed):
    torch.manual_seed(seed)
    plain, dense = ExpertLinear(len(counts), inputs, 6, bias=True), Linear(inputs, 6, bias=True)
    for parameter in (*plain.parameters(), *dense.parameters()):
        torch.nn.init.normal_(parameter).requires_grad_(False)
    experts, one = quantise_layer(plain, bits, 16), quantise_layer(dense, bits, 16)
    assert type(experts) is QuantisedExpertLinear and type(one) is QuantisedLinear
    assert [name for name, _ in experts.named_parameters()] == ["bias"]
    x = torch.randn(sum(counts), inputs, requires_grad=True)
    upstream = torch.randn(sum(counts), 6)
    y = grouped_linear(x, experts.effective_weight(), tuple(counts)) + per_row(plain.bias, tuple(counts))
    for ours, slow in ((experts(x, tuple(counts)), y), (one(x), linear(x, one.effective_weight(), one.bias))):
        assert_close(ours, slow, terms=max(inputs, 6), size=1.0)
        found, expected = (torch.autograd.grad(out, x, upstream)[0] for out in (ours, slow))
        assert_close(found, expected, terms=6, size=1.0)


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_factors_on_quantised_layers_equal_factors_on_the_widened_weight(dora, dropout):
    torch.manual_seed(0)
    counts = (9, 0, 14, 6)
    base = ExpertLinear(4, 24, 10, bias=True)
    quantised = quantise_layer(base, 4, 8)
    wide = ExpertLinear(4, 24, 10, bias=True)
    wide.weight.data, wide.bias = quantised.effective_weight(), base.bias
    wide.requires_grad_(False)
    ours, slow = (LoRAExpertLinear(b, 3, 6.0, dropout, dora, [0, 2]) for b in (quantised, wide))
    dense = Linear(24, 10)
    narrow = quantise_layer(dense, 8, 8)
    dense.weight.data = narrow.effective_weight()
    dense.requires_grad_(False)
    pairs = [(ours, slow, (counts,)), (*(LoRALinear(b, 3, 6.0, dropout, dora) for b in (narrow, dense)), ())]
    for one, other, more in pairs:
        with torch.no_grad():
            for name, parameter in one.named_parameters():
                if name.startswith("lora_"):
                    parameter.add_(torch.randn_like(parameter), alpha=0.1)
                    other.get_parameter(name).copy_(parameter)
        x = torch.randn(29, 24, requires_grad=True)
        results = []
        for layer in (one, other):
            torch.manual_seed(7)
            y = layer(x, *more)
            leaves = (x, *[p for n, p in layer.named_parameters() if n.startswith("lora_")])
            results.append((y, *torch.autograd.grad(y.square().sum(), leaves)))
        for a, b in zip(*results, strict=True):
            assert_close(a, b, terms=29, depth=3 * FORWARD_AND_BACKWARD)
        assert_close(one.effective_weight(), other.effective_weight(), terms=3, depth=2)
        plain = one.merged()
        one.eval()
        assert_close(plain(x, *more), one(x, *more), terms=24, depth=3)
        assert type(one.plain()) in (QuantisedLinear, QuantisedExpertLinear)


def test_autograd_keeps_no_wide_weight():
    layer = quantise_layer(ExpertLinear(4, 256, 256), 4, 64)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        adapted = LoRAExpertLinear(layer, 4, 8.0)
        y = adapted(torch.randn(8, 256, requires_grad=True), (2, 2, 2, 2))
    y.sum().backward()
    assert sum(kept) < 4 * 256 * 256 / 4
