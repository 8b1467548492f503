"""Compiled passes over rows against PyTorch's operations and float64, with one thread and two."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from coterie.nn.dispatch import LOCAL
from coterie.nn.kernels import choose, one_pass
from coterie.nn.kernels.swiglu import swiglu, swiglu_experts
from coterie.nn.norm import RMSNorm
from coterie.nn.quantised_tensor import QuantisedTensor
from tests.arithmetic import assert_close

DTYPES = [torch.float32, torch.bfloat16]


@pytest.fixture(params=[1, 2])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def gradients(function, upstream, *inputs):
    """Value and gradients."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    y = function(*leaves)
    return [y, *torch.autograd.grad(y, leaves, upstream)]


def exact_gradients(function, upstream, *inputs):
    """The same in float64."""
    return gradients(function, upstream.double(), *(x.detach().double() for x in inputs))


@pytest.mark.parametrize("dtype", DTYPES)
def test_swiglu(dtype, threads):
    torch.manual_seed(0)
    both = (4 * torch.randn(700, 2 * 101)).to(dtype)
    gate, up = both.chunk(2, dim=1)
    assert choose.one_pass(gate, up)
    upstream = torch.randn(700, 101).to(dtype)
    found = gradients(swiglu, upstream, gate, up)
    exact = exact_gradients(lambda gate, up: F.silu(gate) * up, upstream, gate, up)
    for ours, right in zip(found, exact, strict=True):
        assert_close(ours, right, terms=8, dtype=dtype)
    with torch.no_grad():
        assert torch.equal(swiglu(gate, up), found[0])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(("inputs", "block"), [(256, 64), (256, 32), (192, 48), (200, 64), (129, 64)])
@pytest.mark.parametrize("scales", [torch.bfloat16, torch.float32])
def test_widened_codes_have_the_bits_of_the_definition(
    monkeypatch, dtype, bits, inputs, block, scales, threads
):
    torch.manual_seed(0)
    weight = QuantisedTensor((2, 401, inputs), bits, block)
    weight.store(torch.randn(2, 401, inputs))
    weight.scales = (weight.scales.float() * torch.linspace(0.5, 1.5, weight.scales.shape[-1])).to(scales)
    found = [weight.dequantise(dtype=dtype), weight.dequantise(1, dtype)]
    assert one_pass.widens(weight.codes, weight.scales, 2 * 401 * inputs, dtype)
    monkeypatch.setattr(one_pass, "widens", lambda *given: False)
    for ours, right in zip(found, (weight.dequantise(dtype=dtype), weight.dequantise(1, dtype)), strict=True):
        assert ours.shape == right.shape
        assert torch.equal(ours, right)


def test_extreme_numbers_stay_what_they_are():
    gate = torch.zeros(256, 256)
    gate[:, :6] = torch.tensor([float("nan"), float("inf"), 200.0, -200.0, -1e4, 88.0])
    for dtype in DTYPES:
        y = swiglu(gate.to(dtype), torch.ones(256, 256, dtype=dtype))[0]
        assert y[0].isnan() and y[1] == float("inf") and y[2] == 200 and y[5] == 88
        assert y[3].abs() < 1e-30 and y[4].abs() < 1e-30 and bool((y[6:] == 0).all())


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_norm(dtype, late, threads):
    torch.manual_seed(1)
    layer = RMSNorm(33, 1e-5, late=late)
    torch.nn.init.uniform_(layer.weight, 0.5, 1.5)
    x, upstream = torch.randn(500, 4, 33).to(dtype), torch.randn(500, 4, 33).to(dtype)
    assert choose.one_pass(x)

    def ours(x, weight):
        return torch.func.functional_call(layer, {"weight": weight}, (x,))

    found = gradients(ours, upstream, x, layer.weight)

    def norm(x, weight):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5) * weight

    exact = exact_gradients(norm, upstream, x, layer.weight)
    for one, right, terms in zip(found, exact, (33, 33, 2000), strict=True):
        assert_close(one, right, terms=terms, depth=3, dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_experts_and_their_weighted_sum(dtype, threads, monkeypatch):
    """The whole way of a mixture, padding rows and an expert without rows included."""
    torch.manual_seed(2)
    ids = torch.randint(0, 7, (300, 2))
    x, gate_up, down = torch.randn(300, 48), 0.2 * torch.randn(8, 2 * 160, 48), 0.2 * torch.randn(8, 48, 160)
    weights, upstream = torch.rand(300, 2), torch.randn(300, 48).to(dtype)
    leaves = [part.to(dtype) for part in (x, gate_up, down, weights)]
    plan = LOCAL.plan(ids, 8)
    assert plan.padding_N is not None and plan.counts[7] == 0

    def mixture(x, gate_up, down, weights):
        y = swiglu_experts(LOCAL.dispatch(x, None, plan), gate_up, down, plan.counts)
        return LOCAL.combine(y, weights, plan)

    monkeypatch.setattr(choose, "_WORTH_PASSES", 1 << 10)
    calls = []
    run = one_pass._run
    monkeypatch.setattr(one_pass, "_run", lambda name, *rest: (calls.append(name), run(name, *rest)))
    found = gradients(mixture, upstream, *leaves)
    assert calls == 7 * ["swiglu"] + ["weighted_rows"] + 7 * ["swiglu_gradient"]
    expected = exact_gradients(mixture, upstream, *leaves)
    assert len(calls) == 15  # float64 is PyTorch's
    for ours, exact in zip(found, expected, strict=True):
        assert_close(ours, exact, terms=300, depth=4, dtype=dtype)


def test_only_plain_rows_on_cpu_that_are_many_are_taken(monkeypatch):
    many = torch.empty(256, 256)
    assert choose.one_pass(many) and choose.one_pass(many, many[:, :8])
    assert not choose.one_pass(many[:8]) and not choose.one_pass(many.double())
    assert not choose.one_pass(many.to("meta")) and not choose.one_pass(many.t())
    assert not choose.one_pass(many, many.bfloat16())
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert not choose.one_pass(many)


def test_without_numba_pytorch_is_taken():
    program = """
import sys
sys.modules["numba"] = None
import torch
from coterie.nn.kernels.swiglu import swiglu
x = torch.ones(256, 256)
assert torch.allclose(swiglu(x, x), torch.nn.functional.silu(x))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr == "passes over rows: not usable (ModuleNotFoundError); PyTorch is used\n"
