"""The router's dense gradient against autograd through every expert on every token."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from coterie.config import MoEConfig, RouterConfig
from coterie.nn.dense_gradient import dense_weights
from coterie.nn.forward_context import ForwardContext
from coterie.nn.moe import MoE
from coterie.nn.norm import NormKind
from tests.arithmetic import FORWARD_AND_BACKWARD, assert_close

KINDS: dict[str, dict[str, Any]] = {
    "softmax": {},
    "renormalised": {"renormalize": True, "scale": 2.5},
    "sigmoid": {"score": "sigmoid", "renormalize": True, "select_bias": True},
    "softmax_of_the_chosen": {"score_after_topk": True, "bias": True},
    "scaled": {"renormalize": True, "renormalize_eps": 0.0, "input_norm_eps": 1e-3, "expert_scale": True},
    "groups": {"score": "sigmoid", "num_groups": 3, "top_groups": 2},
}
T, D, E = 23, 12, 6


def make(kind: str, top_k: int = 2) -> MoE:
    torch.manual_seed(3)
    router = RouterConfig(num_experts=E, top_k=top_k, **KINDS[kind])
    moe = MoE(D, MoEConfig(expert_width=10, router=router), NormKind(1e-6, False, False))
    for tensor in [
        *moe.parameters(),
        *([moe.router.select_bias] if moe.router.select_bias is not None else []),
    ]:
        tensor.data = torch.randn_like(tensor) * 0.5
    return moe


def every_expert(moe: MoE, x_TD: Tensor, constant: bool) -> Tensor:
    """(T, E, D): what each expert says to each token."""
    said = []
    for e in range(E):
        gate, up = (x_TD @ moe.experts.gate_up.weight[e].T).chunk(2, -1)
        said.append((F.silu(gate) * up) @ moe.experts.down.weight[e].T)
    return torch.stack(said, 1).detach() if constant else torch.stack(said, 1)


def gradients(moe: MoE, y_TD: Tensor, x_TD: Tensor, g_TD: Tensor) -> dict[str, Tensor]:
    moe.zero_grad()
    x_TD.grad = None
    (y_TD * g_TD).sum().backward()
    return {"x": x_TD.grad, **{n: p.grad for n, p in moe.named_parameters()}}  # type: ignore[dict-item]


@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_the_chosen_are_those_of_the_router(kind: str) -> None:
    moe, x_TD = make(kind), torch.randn(T, D)
    routing = moe.router(x_TD)
    all_TE = dense_weights(routing, moe.router)
    assert_close(all_TE.gather(-1, routing.ids_TK), routing.weights_TK, terms=D, depth=2)


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_is_that_of_every_expert_with_the_unchosen_constant(kind: str) -> None:
    moe, context = make(kind), ForwardContext.packed([T])
    x_TD, g_TD = torch.randn(T, D, requires_grad=True), torch.randn(T, D)
    sparse_TD = moe(x_TD, context)
    sparse = gradients(moe, sparse_TD, x_TD, g_TD)
    moe.dense_gradient = True
    y_TD = moe(x_TD, context)
    assert torch.equal(y_TD, sparse_TD)
    found = gradients(moe, y_TD, x_TD, g_TD)

    routing = moe.router(x_TD)
    weights_TE = dense_weights(routing, moe.router)
    chosen_TE = torch.zeros(T, E).scatter(-1, routing.ids_TK, 1.0)
    trained = (weights_TE * chosen_TE)[..., None] * every_expert(moe, x_TD, constant=False)
    heard = (weights_TE * (1 - chosen_TE))[..., None] * every_expert(moe, x_TD, constant=True)
    expected = gradients(moe, (trained + heard).sum(1), x_TD, g_TD)
    sums = T, 3 * FORWARD_AND_BACKWARD  # router, gate and up, down
    for name, gradient in expected.items():
        assert_close(found[name], gradient, *sums, name=name)
        if name.startswith("experts"):
            assert_close(found[name], sparse[name], *sums, name=name)
    assert not torch.allclose(found["router.weight"], sparse["router.weight"], rtol=1e-2)


def test_with_every_expert_chosen_nothing_is_added() -> None:
    moe, context = make("renormalised", top_k=E), ForwardContext.packed([T])
    x_TD, g_TD = torch.randn(T, D, requires_grad=True), torch.randn(T, D)
    plain = gradients(moe, moe(x_TD, context), x_TD, g_TD)
    moe.dense_gradient = True
    dense = gradients(moe, moe(x_TD, context), x_TD, g_TD)
    assert all(torch.equal(plain[name], dense[name]) for name in plain)


def test_a_frozen_router_before_a_frozen_input_costs_nothing() -> None:
    moe = make("softmax")
    moe.router.requires_grad_(False)
    moe.dense_gradient = True
    calls: list[int] = []
    mix = moe.experts.mix
    moe.experts.mix = lambda *given, **named: (calls.append(1), mix(*given, **named))[1]
    moe(torch.randn(T, D), ForwardContext.packed([T])).sum().backward()
    assert len(calls) == 1
