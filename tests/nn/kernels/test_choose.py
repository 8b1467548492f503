"""What is chosen for a device, a dtype and a size."""

from __future__ import annotations

import pytest
import torch

from coterie.nn.kernels import choose
from coterie.nn.kernels.choose import dense, row_multiple
from coterie.nn.kernels.cuda import GROUP_ROWS
from coterie.nn.kernels.probes import HAS_ONEDNN
from coterie.nn.kernels.weights import ExpertWeights
from coterie.nn.linear import linear
from coterie.nn.quantised_tensor import QuantisedTensor

CPU = torch.device("cpu")
needs_onednn = pytest.mark.skipif(not HAS_ONEDNN, reason="PyTorch was built without oneDNN")


@needs_onednn
@pytest.mark.parametrize(
    ("rows", "dtype", "device", "expected"),
    [
        (64, torch.float32, "cpu", True),
        (1, torch.float32, "cpu", False),
        (0, torch.float32, "cpu", False),
        (64, torch.bfloat16, "cpu", False),
        (64, torch.float64, "cpu", False),
        (64, torch.float32, "meta", False),
    ],
)
def test_only_large_float32_products_on_cpu_use_onednn(rows, dtype, device, expected):
    x, weight = (
        torch.empty(rows, 32, dtype=dtype, device=device),
        torch.empty(48, 32, dtype=dtype, device=device),
    )
    assert (dense(x, weight) == "onednn") is expected
    assert linear(x, weight).shape == (rows, 48)


def test_rows_repeat_and_waste_little():
    assert row_multiple(10, 8, CPU) == 1
    assert row_multiple(1 << 20, 8, torch.device("meta")) == 1
    assert row_multiple(10, 8, torch.device("cuda")) == GROUP_ROWS
    for mean in (64, 100, 256, 1000, 1024, 5000):
        multiple = row_multiple(mean * 8, 8, CPU)
        assert multiple > 1 and multiple / 2 <= mean / 8


class OnCuda:
    """Stands in for a tensor on a GPU: `choose` asks only for device, dtype and shape."""

    device = torch.device("cuda")

    def __init__(self, dtype=torch.bfloat16, shape=(24, 8)):
        self.dtype, self.shape = dtype, shape


def test_attention_of_packed_segments_on_cuda(monkeypatch):
    monkeypatch.setattr(choose, "is_right", lambda kernel, device: kernel == "varlen")
    q, k = OnCuda(shape=(9, 4, 64)), OnCuda(shape=(9, 2, 64))
    assert choose.attends_packed(q, k, k)
    assert not choose.attends_packed(OnCuda(torch.float32, q.shape), k, k)
    assert not choose.attends_packed(OnCuda(shape=(0, 4, 64)), k, k)
    assert not choose.attends_packed(q, k, OnCuda(shape=(9, 2, 32)))
    for width in (60, 264):
        wrong = OnCuda(shape=(9, 4, width))
        assert not choose.attends_packed(wrong, wrong, wrong)
    monkeypatch.setattr(choose, "is_right", lambda kernel, device: False)
    assert not choose.attends_packed(q, k, k)


def test_products_of_experts_on_cuda(monkeypatch):
    monkeypatch.setattr(choose, "is_right", lambda kernel, device: kernel == "grouped_mm")
    matrix, factors = torch.empty(4, 16, 8), {"a_SrI": torch.empty(4, 2, 8), "b_SOr": torch.empty(4, 16, 2)}
    assert choose.grouped(OnCuda(), ExpertWeights(matrix)) == "grouped_mm"
    assert choose.grouped(OnCuda(torch.float32), ExpertWeights(matrix)) == "loop"
    assert choose.grouped(OnCuda(shape=(0, 8)), ExpertWeights(matrix)) == "loop"
    assert choose.grouped(OnCuda(), ExpertWeights(torch.empty(4, 16, 7))) == "loop"
    assert choose.grouped(OnCuda(), ExpertWeights(QuantisedTensor((4, 16, 8), 8, 8))) == "loop"
    assert choose.grouped(OnCuda(), ExpertWeights(matrix, **factors)) == "composed"
    assert choose.grouped(OnCuda(), ExpertWeights(matrix, slices_SOI=torch.empty(1, 16, 8))) == "composed"
    monkeypatch.setattr(choose, "is_right", lambda kernel, device: False)
    assert choose.grouped(OnCuda(), ExpertWeights(matrix)) == "loop"
