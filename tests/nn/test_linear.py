"""The dense layer: values, gradients and the operator, against float64 and PyTorch's own checks."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.nn.kernels.choose import dense
from coterie.nn.kernels.dense import product
from coterie.nn.kernels.probes import HAS_ONEDNN
from coterie.nn.linear import Linear, linear
from tests.arithmetic import assert_close, tolerance

needs_onednn = pytest.mark.skipif(not HAS_ONEDNN, reason="PyTorch was built without oneDNN")


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 70), st.integers(1, 40), st.integers(1, 40), st.booleans(), st.integers(0, 999))
def test_value_and_gradients_equal_float64(rows, inputs, outputs, bias, seed):
    torch.manual_seed(seed)
    x, weight, b = torch.randn(rows, inputs), torch.randn(outputs, inputs), torch.randn(outputs)
    upstream = torch.randn(rows, outputs)
    results = []
    for dtype in (torch.float32, torch.float64):
        leaves = [t.to(dtype).requires_grad_() for t in ((x, weight, b) if bias else (x, weight))]
        y = linear(*leaves) if dtype == torch.float32 else F.linear(*leaves)
        results.append([y, *torch.autograd.grad(y, leaves, upstream.to(dtype))])
    for ours, exact in zip(*results, strict=True):
        assert_close(ours, exact, terms=max(rows, inputs, outputs), size=1.0)


def test_gradients_equal_finite_differences():
    torch.manual_seed(3)
    x, weight = torch.randn(20, 7), torch.randn(9, 7)
    upstream = torch.randn(20, 9)

    def loss(x, weight):
        return (linear(x, weight) * upstream).sum()

    # The error of the sum is that of its partial sums, which grow like a random walk.
    products = linear(x, weight) * upstream
    bound = tolerance(float(products.norm()), terms=products.numel(), depth=2)
    leaves = (x.clone().requires_grad_(), weight.clone().requires_grad_())
    for index, gradient in enumerate(torch.autograd.grad(loss(*leaves), leaves)):
        for row, column in ((0, 0), (4, 6), (8, 3)):
            up, down = [x.clone(), weight.clone()], [x.clone(), weight.clone()]
            up[index][row, column] += 0.5
            down[index][row, column] -= 0.5
            # The loss is linear in each leaf: a central difference is exact but for rounding.
            difference = loss(*up) - loss(*down)
            torch.testing.assert_close(gradient[row, column], difference, rtol=0, atol=bound)


def test_only_wanted_gradients_are_computed():
    weight = torch.randn(8, 4, requires_grad=True)
    linear(torch.randn(32, 4), weight).sum().backward()
    assert weight.grad is not None
    x = torch.randn(32, 4, requires_grad=True)
    linear(x, weight.detach()).sum().backward()
    assert_close(x.grad, weight.detach().sum(0).expand(32, 4), terms=8)


def test_product_reads_transposed_views_and_writes_in_place():
    x, weight = torch.randn(24, 40), torch.randn(40, 33)
    out = torch.full((50, 33), 7.0)
    product(x, weight.t(), out=out[10:34])
    assert_close(out[10:34], x @ weight, terms=40)
    assert bool((out[:10] == 7).all()) and bool((out[34:] == 7).all())
    assert_close(product(x.t(), torch.ones(33, 24)), x.sum(0)[:, None].expand(40, 33), terms=24)


@pytest.mark.parametrize("rows", [*range(1, 20), 33, 65, 130])
@pytest.mark.parametrize("inputs", [96, 256, 1024])
def test_products_without_gradients_equal_float64(rows, inputs):
    """Few rows are multiplied the other way round, many are rounded up: whatever the way, and into a part of
    `out`.
    """
    torch.manual_seed(rows)
    x, weight, bias = torch.randn(rows, inputs), torch.randn(512, inputs), torch.randn(512)
    exact = F.linear(x.double(), weight.double(), bias.double())
    assert (dense(x, weight) == "turned") is (max(2, rows) * inputs <= 3072)
    with torch.inference_mode():
        y, out = linear(x, weight, bias), torch.full((rows + 6, 512), 7.0)
        product(x, weight, out=out[3:-3])
        alone = product(x, weight)
    assert_close(y, exact, terms=inputs)
    assert_close(out[3:-3] + bias, exact, terms=inputs)
    assert y.shape == (rows, 512) and alone.is_contiguous() and torch.equal(alone, out[3:-3])
    assert bool((out[:3] == 7).all()) and bool((out[-3:] == 7).all())


def test_bfloat16_input_casts_the_float32_weight_and_its_gradient_stays_float32():
    layer = Linear(16, 24, bias=True)
    torch.nn.init.normal_(layer.bias)
    x = torch.randn(40, 16).bfloat16()
    y = layer(x)
    assert y.dtype == torch.bfloat16
    exact = x.double() @ layer.weight.double().t() + layer.bias.double()
    assert_close(y, exact, terms=16, depth=2)  # the weight is rounded and the result
    y.float().sum().backward()
    assert layer.weight.grad.dtype == layer.bias.grad.dtype == torch.float32


@pytest.mark.parametrize("rows", [4, 64])
def test_survives_compile_as_one_graph(rows):
    layer = Linear(16, 24, bias=True)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    x = torch.randn(rows, 16)
    expected = layer(x)
    expected.square().sum().backward()
    gradient = layer.weight.grad.clone()
    layer.zero_grad()
    y = compiled(x)
    y.square().sum().backward()
    assert_close(y, expected, terms=16)
    assert_close(layer.weight.grad, gradient, terms=rows, depth=2)


@needs_onednn
def test_operator_passes_pytorchs_own_checks():
    args = (torch.randn(32, 8, requires_grad=True), torch.randn(16, 8, requires_grad=True))
    torch.library.opcheck(torch.ops.coterie.linear.default, args)
