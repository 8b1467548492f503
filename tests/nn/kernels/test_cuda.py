"""Kernels of CUDA: what is around them on every machine, the kernels themselves where there is a device."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.attention import varlen as torch_varlen

from coterie.config.feed_forward import MoEConfig, RouterConfig
from coterie.config.run import OptimiserConfig
from coterie.families import config_from_hf
from coterie.infer.engine import Engine
from coterie.infer.sampling import SamplingParams
from coterie.nn.experts import build_experts
from coterie.nn.forward_context import ForwardContext
from coterie.nn.kernels import choose, cuda
from coterie.nn.kernels.weights import ExpertWeights
from coterie.nn.router import Routing
from coterie.nn.sdpa import attend
from coterie.nn.transformer import Transformer
from coterie.train import build_optimiser
from tests.arithmetic import assert_model_close
from tests.families.hf import _BASE, CONFIGS, VOCAB, randomise
from tests.nn.test_experts import by_expert, gradients

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _fresh() -> Any:
    cuda.is_right.cache_clear()
    yield
    cuda.is_right.cache_clear()


def strict_grouped(x_RI: Tensor, weight_EIO: Tensor, *, offs: Tensor) -> Tensor:
    """Like the kernel, which reads gradients of weights in whole groups of rows only."""
    ends = [0, *offs.tolist()]
    assert offs.dtype == torch.int32 and all(end % cuda.GROUP_ROWS == 0 for end in ends)
    assert ends[-1] == x_RI.shape[0]
    return torch.cat([x_RI[a:b] @ weight for (a, b), weight in zip(pairwise(ends), weight_EIO, strict=True)])


def strict_varlen(
    q: Tensor, k: Tensor, v: Tensor, starts_q: Tensor, starts_k: Tensor, longest_q: int, longest_k: int, *,
    scale: float, window_size: tuple[int, int], enable_gqa: bool,
) -> Tensor:  # fmt: skip
    """By plain attention, one segment at a time."""
    ends = starts_q.tolist()
    assert torch.equal(starts_q, starts_k) and starts_q.dtype == torch.int32 and len(q) == ends[-1]
    assert longest_q == longest_k == max(b - a for a, b in pairwise(ends)) and window_size[1] == 0
    outputs = []
    for a, b in pairwise(ends):
        back = torch.arange(b - a)[:, None] - torch.arange(b - a)
        seen = (back >= 0) & ((back <= window_size[0]) | (window_size[0] < 0))
        heads = (x[a:b].transpose(0, 1) for x in (q, k, v))
        y = F.scaled_dot_product_attention(*heads, attn_mask=seen, scale=scale, enable_gqa=enable_gqa)
        outputs.append(y.transpose(0, 1))
    return torch.cat(outputs)


@given(counts=st.lists(st.integers(0, 20), min_size=1, max_size=6), seed=st.integers(0, 99))
def test_rows_move_to_whole_groups_and_back_exactly(counts: list[int], seed: int) -> None:
    """Whole numbers, whose sums are exact in any order."""
    generator = torch.Generator().manual_seed(seed)
    shapes = (sum(counts), 8), (len(counts), 16, 8), (sum(counts), 16)
    x, weight, upstream = (torch.randint(-4, 5, shape, generator=generator).float() for shape in shapes)
    leaves = x.requires_grad_(), weight.requires_grad_()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, "grouped_mm", strict_grouped)
        ours = cuda.grouped_mm(x, weight, tuple(counts))
        slow = by_expert(x, weight, counts)
        assert torch.equal(ours, slow)
        for found, wanted in zip(
            gradients(ours, leaves, upstream), gradients(slow, leaves, upstream), strict=True
        ):
            assert torch.equal(found, wanted)


def test_hand_worked_places() -> None:
    assert cuda.aligned_places((8, 0, 16)) is None
    assert cuda.aligned_places((2, 0, 9, 1)) == [0, 1, *range(8, 17), 24]


def test_torchs_grouped_product_on_cpu_is_right_and_a_wrong_one_is_noticed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert cuda.is_right("grouped_mm", CPU) and not caplog.records

    def shifted(x: Tensor, weight: Tensor, *, offs: Tensor) -> Tensor:
        return strict_grouped(x, weight.roll(1, 0), offs=offs)

    def gradient_lost(x: Tensor, weight: Tensor, *, offs: Tensor) -> Tensor:
        return strict_grouped(x, weight * 2 - weight.detach(), offs=offs)

    def undefined(x: Tensor, weight: Tensor, *, offs: Tensor) -> Tensor:
        return strict_grouped(x, weight, offs=offs) * float("nan")

    for wrong in (shifted, gradient_lost, undefined):
        cuda.is_right.cache_clear()
        caplog.clear()
        monkeypatch.setattr(F, "grouped_mm", wrong)
        assert not cuda.is_right("grouped_mm", CPU)
        assert len(caplog.messages) == 1 and "it is off by" in caplog.messages[0]


def test_a_missing_kernel_is_one_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delattr(F, "grouped_mm")
    monkeypatch.delattr(torch_varlen, "varlen_attn")
    for kernel in ("grouped_mm", "varlen"):
        caplog.clear()
        assert not cuda.is_right(kernel, CPU)
        assert len(caplog.messages) == 1 and "\n" not in caplog.messages[0]
        assert caplog.messages[0].startswith(f"kernel {kernel} on cpu is not used, slower ones are: ")


def test_the_comparison_of_attention_sees_the_window_and_the_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_varlen, "varlen_attn", strict_varlen)
    assert cuda.is_right("varlen", CPU)
    for mistake in ({"window_size": (-1, 0)}, {"window_size": (16, 0)}, {"scale": 0.125}):

        def wrong(*given: Any, mistake: dict[str, Any] = mistake, **settings: Any) -> Tensor:
            return strict_varlen(*given, **(settings | mistake))

        cuda.is_right.cache_clear()
        monkeypatch.setattr(torch_varlen, "varlen_attn", wrong)
        assert not cuda.is_right("varlen", CPU), mistake


@pytest.mark.parametrize(("mask", "window"), [("causal", None), ("sliding", 5), ("chunked", 5)])
def test_packed_segments_in_one_kernel_are_the_same_attention(
    mask: Any, window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(0)
    lengths = [7, 1, 12]
    q, k, v = (torch.randn(20, heads, 8, generator=generator) for heads in (4, 2, 2))
    expected = attend(q, k, v, ForwardContext.packed(lengths), mask, window, 0.3)
    monkeypatch.setattr(torch_varlen, "varlen_attn", strict_varlen)
    monkeypatch.setattr(choose, "attends_packed", lambda q, k, v: True)
    found = attend(q, k, v, ForwardContext.packed(lengths), mask, window, 0.3)
    assert (found - expected).abs().max() < 1e-5


def test_the_cpu_takes_none_of_them() -> None:
    q = torch.zeros(4, 2, 8, dtype=torch.bfloat16)
    assert not choose.attends_packed(q, q, q)
    assert choose.grouped(q[:, 0], ExpertWeights(torch.zeros(2, 8, 8, dtype=torch.bfloat16))) == "loop"


BENCH = Path(__file__).parents[3] / "bench"
IN_LITTLE = """
import torch, gpu_step
from shapes import models, shape
gpu_step.SEQUENCES, gpu_step.LENGTH, gpu_step.VOCABULARY = 2, 32, 128
gpu_step.PROMPT, gpu_step.NEW, gpu_step.BATCHES = 16, 4, (1, 2)
gpu_step.SHAPE = shape(width=32, layers=2, heads=4, head_dim=8, vocabulary=128)
gpu_step.MODELS = {name: models(columns=64)[name] for name in gpu_step.MODELS}
records = []
record = gpu_step.measured(torch.device("cpu"), 2, 1e9, records.append)
assert not record["left_out"] and len(records) == len(record["parts"]) == 4
steps = record["parts"]["training"]["steps"]
assert len(steps) == 6 and steps["dense"]["over_dense"] == 1.0 and steps["qwen3_moe, plain"]["ms"] > 0
assert len(record["parts"]["generation, mixtral"]) == 6
assert gpu_step.measured(torch.device("cpu"), 1, -1.0, records.append)["left_out"] == list(record["parts"])
"""


@pytest.mark.slow
def test_the_benchmark_runs_in_little_and_refuses_a_machine_without_a_device() -> None:
    environment = os.environ | {"PYTHONPATH": ":".join([str(BENCH), *filter(None, sys.path)])}
    environment["OMP_NUM_THREADS"] = "1"
    subprocess.run([sys.executable, "-c", IN_LITTLE], check=True, env=environment, timeout=300)
    command = [sys.executable, str(BENCH / "gpu_step.py")]
    hidden = environment | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, check=False, env=hidden, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1 and done.stdout == ""
    assert (
        done.stderr.startswith("bench/gpu_step.py: PyTorch sees no CUDA device")
        and done.stderr.count("\n") == 1
    )


@pytest.mark.gpu
@pytest.mark.parametrize("kernel", ["grouped_mm", "varlen"])
def test_the_kernel_is_right_on_this_device(kernel: cuda.Kernel) -> None:
    assert cuda.is_right(kernel, torch.device("cuda", torch.cuda.current_device()))


@pytest.mark.gpu
def test_a_mixture_and_its_gradients_are_those_of_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    config = MoEConfig(expert_width=64, router=RouterConfig(num_experts=16, top_k=4))
    torch.manual_seed(0)
    experts = build_experts(64, config).to("cuda", torch.bfloat16)
    with torch.no_grad():
        for parameter in experts.parameters():
            parameter.normal_(0, 0.1)
    x = torch.randn(333, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    ids = torch.stack([torch.randperm(16)[:4] for _ in range(333)]).cuda()
    routing = Routing(ids, torch.rand(333, 4, device="cuda"), torch.zeros(333, 16, device="cuda"))
    found = []
    for way in ("grouped_mm", "loop"):
        monkeypatch.setattr(choose, "grouped", lambda x, weights, way=way: way)
        y = experts.mix(x, routing)
        found.append([y, *torch.autograd.grad(y.float().square().sum(), [x, *experts.parameters()])])
    for ours, theirs in zip(*found, strict=True):
        assert (ours - theirs).abs().max() <= 2**-5 * theirs.abs().max()


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["llama", "qwen3_moe", "gpt_oss", "deepseek_v3", "llama4_scout", "olmo3"])
def test_a_model_and_its_gradients_are_those_of_the_cpu(name: str) -> None:
    """In float32 within rounding; in bfloat16 no further from it than the CPU's bfloat16 is, twice over."""
    lengths, ids = [23, 1, 40], torch.randint(VOCAB, (64,), generator=torch.Generator().manual_seed(1))
    found = {}
    for place, dtype in product(("cpu", "cuda"), (torch.float32, torch.bfloat16)):
        model = Transformer(config_from_hf(copy.deepcopy(_BASE | CONFIGS[name])), compute_dtype=dtype)
        randomise(model)
        model = model.to(place, dtype)
        context = ForwardContext.packed(lengths, device=torch.device(place))
        logits = model.logits(model(ids.to(place), context))
        logits.float().log_softmax(-1)[:, 7].sum().backward()
        gradients = torch.cat(
            [p.grad.float().cpu().flatten() for p in model.parameters() if p.grad is not None]
        )
        found[place, dtype] = logits.detach().float().cpu(), gradients
    config = config_from_hf(copy.deepcopy(_BASE | CONFIGS[name]))
    exact = found["cpu", torch.float32]
    assert_model_close(config, found["cuda", torch.float32][0], exact[0], tokens=40)
    for ours, usual, right in zip(
        found["cuda", torch.bfloat16], found["cpu", torch.bfloat16], exact, strict=True
    ):
        assert (ours - right).abs().mean() <= 2 * (usual - right).abs().mean()


@pytest.mark.gpu
def test_greedy_replies_and_a_step_of_training_are_those_of_the_cpu() -> None:
    replies, weights = [], []
    for place in ("cpu", "cuda"):
        model = Transformer(config_from_hf(copy.deepcopy(_BASE | CONFIGS["qwen3_moe"])))
        randomise(model)
        model = model.to(place)
        params = SamplingParams(temperature=0, max_tokens=20, stop_ids=())
        with torch.inference_mode():
            made = Engine(model.eval(), max_batch=2).generate([[1, 2, 3], [4, 5]], params)
        replies.append([reply.ids for reply in made])
        optimiser = build_optimiser(model, OptimiserConfig(name="adamw"))
        context = ForwardContext.packed([6], device=torch.device(place))
        model.logits(model(torch.arange(6, device=place), context)).log_softmax(-1)[:, 3].sum().backward()
        optimiser.step(1e-3)
        weights.append(torch.cat([p.detach().cpu().flatten() for p in model.parameters()]))
    assert replies[0] == replies[1]
    # AdamW's first step is the sign of the gradient: where that is tiny, rounding may turn it.
    assert (weights[0] - weights[1]).abs().mean() < 1e-5
