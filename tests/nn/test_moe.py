"""The sparse layer against running every expert on every token, forward and backward."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from coterie.config import MoEConfig, RouterConfig
from coterie.nn.forward_context import ForwardContext
from coterie.nn.moe import MoE
from coterie.nn.norm import NormKind
from tests.arithmetic import FORWARD_AND_BACKWARD, assert_close

D, F_EXPERT = 12, 10
DEPTH = 3  # router, gate and up, down


def reference(
    moe: MoE,
    x_TD: Tensor,
    context: ForwardContext | None = None,
    layer: int = 0,
    h_TD: Tensor | None = None,
) -> Tensor:
    """Every expert on every token, weighted by the routing (zero where not chosen)."""
    assert moe.expert_norm is None
    context = context or ForwardContext.packed([len(x_TD)])
    routing = moe.router(x_TD, context.valid_T, context.balance_tokens)
    config = moe.config.router
    weights_TE = torch.zeros(x_TD.shape[0], config.num_experts, dtype=x_TD.dtype)
    weights_TE = weights_TE.scatter(-1, routing.ids_TK, routing.weights_TK.to(x_TD.dtype))
    y_TD = torch.zeros_like(x_TD)
    for e in range(config.num_experts):
        weight_T1 = weights_TE[:, e : e + 1]
        chosen_T1 = (routing.ids_TK == e).any(-1, keepdim=True)
        x_in = x_TD * weight_T1 if config.apply_to == "input" else x_TD
        gate, up = (x_in @ moe.experts.gate_up.weight[e].T.to(x_TD.dtype)).chunk(2, -1)
        out = (F.silu(gate) * up) @ moe.experts.down.weight[e].T.to(x_TD.dtype)
        y_TD = y_TD + torch.where(chosen_T1, out if config.apply_to == "input" else out * weight_T1, 0.0)
    if moe.shared is not None:
        shared = moe.shared
        y_TD = (
            y_TD + (F.silu(x_TD @ shared.gate.weight.T) * (x_TD @ shared.up.weight.T)) @ shared.down.weight.T
        )
    return y_TD


def make(num_experts: int, seed: int, **router: object) -> MoE:
    torch.manual_seed(seed)
    moe = MoE(
        D,
        MoEConfig(
            expert_width=F_EXPERT,
            shared_width=6 if seed % 2 else None,
            router=RouterConfig(num_experts=num_experts, **router),
        ),
        NormKind(1e-6, False, False),
    )
    for parameter in moe.parameters():
        parameter.data = torch.randn_like(parameter) * 0.5
    return moe


@given(
    tokens=st.integers(1, 40),
    num_experts=st.sampled_from([1, 2, 5, 16]),
    chosen=st.integers(1, 4),
    apply_to=st.sampled_from(["input", "output"]),
    score=st.sampled_from(["softmax", "sigmoid"]),
    after=st.booleans(),
    seed=st.integers(0, 5),
)
@settings(max_examples=60, deadline=None)
def test_equals_running_every_expert(
    tokens: int, num_experts: int, chosen: int, apply_to: str, score: str, after: bool, seed: int
) -> None:
    moe = make(
        num_experts,
        seed,
        top_k=min(chosen, num_experts),
        apply_to=apply_to,
        score=score,
        score_after_topk=after,
    )
    x = torch.randn(tokens, D)
    grads = []
    for run in (lambda v: moe(v, ForwardContext.packed([tokens])), lambda v: reference(moe, v)):
        leaf = x.clone().requires_grad_()
        moe.zero_grad(set_to_none=True)
        out = run(leaf)
        (out * torch.sin(torch.arange(out.numel()).view_as(out))).sum().backward()
        grads.append([out, leaf.grad] + [p.grad for p in moe.parameters()])
    for sparse, every in zip(*grads, strict=True):
        assert sparse is not None, "a parameter without gradient: an expert without tokens must get zeros"
        every = torch.zeros_like(sparse) if every is None else every
        assert_close(sparse, every, terms=max(tokens, D), depth=DEPTH * FORWARD_AND_BACKWARD, size=1.0)


def test_all_tokens_on_one_expert_are_all_served() -> None:
    moe = make(8, 0, top_k=1)
    moe.router.weight.data.zero_()
    moe.router.weight.data[3] = 1.0
    x = torch.rand(50, D) + 0.1
    assert set(moe.router(x).ids_TK.flatten().tolist()) == {3}
    assert_close(moe(x, ForwardContext.packed([50])), reference(moe, x), terms=D, depth=DEPTH)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_output_has_the_input_dtype(dtype: torch.dtype) -> None:
    moe = make(4, 1, top_k=2)
    assert moe(torch.randn(5, D).to(dtype), ForwardContext.packed([5])).dtype == dtype
