"""Gradients for a router from the experts that it did not choose (the idea of DenseMixer).

The forward pass runs chosen experts only, so that a router learns nothing about the others. Here the backward
pass runs those too, without training them, and gives each of their routing weights the gradient that it would
have had.

T tokens, D width, E experts, K chosen experts per token, N tokens that did not choose one expert.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from coterie.nn.autograd import GradFunction
from coterie.nn.experts import RoutedExperts
from coterie.nn.router import Router, Routing


def dense_weights(routing: Routing, router: Router) -> Tensor:
    """(T, E): the weight that each expert would have had next to the chosen ones.

    Those of the chosen ones themselves are `routing.weights_TK`.
    """
    weights_TE, config = routing.scores_TE, router.config
    if config.renormalize or (config.score_after_topk and config.score == "softmax"):
        chosen_T1 = (
            weights_TE.gather(-1, routing.ids_TK).sum(-1, keepdim=True).clamp_min(config.renormalize_min)
        )
        weights_TE = weights_TE / (chosen_T1 + config.renormalize_eps)
    if config.scale != 1.0:
        weights_TE = weights_TE * config.scale
    return weights_TE if router.expert_scale is None else weights_TE * router.expert_scale.float()


def with_dense_gradient(
    y_TD: Tensor, x_TD: Tensor, routing: Routing, experts: RoutedExperts, router: Router
) -> Tensor:
    """`y_TD` unchanged; in the backward pass experts not chosen in `routing` add to the router's gradient.

    `experts.mix(x_TD, routing)` has made `y_TD`, weighted on the output (`apply_to` output).
    """
    result: Tensor = _Unchosen.call(y_TD, dense_weights(routing, router), x_TD, routing.ids_TK, experts)
    return result


class _Unchosen(GradFunction):
    @staticmethod
    def forward(
        ctx: Any, y_TD: Tensor, weights_TE: Tensor, x_TD: Tensor, ids_TK: Tensor, experts: RoutedExperts
    ) -> Tensor:
        ctx.save_for_backward(x_TD, ids_TK)
        ctx.experts, ctx.shape = experts, weights_TE.shape
        return y_TD.view_as(y_TD)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x_TD, ids_TK = ctx.saved_tensors
        grad_TD = grads[0]
        if not ctx.needs_input_grad[1]:
            return grad_TD, None, None, None, None
        num_experts = ctx.shape[1]
        grad_weights_TE = torch.zeros(ctx.shape, dtype=torch.float32, device=grad_TD.device)
        unchosen_TE = torch.ones(ctx.shape, dtype=torch.bool, device=grad_TD.device).scatter_(
            -1, ids_TK, False
        )
        for expert in range(num_experts):
            tokens_N = unchosen_TE[:, expert].nonzero().squeeze(1)
            if not tokens_N.numel():
                continue
            # Through `mix`, because only the dispatcher knows which process holds the expert.
            alone = Routing(
                torch.full_like(tokens_N[:, None], expert),
                torch.ones_like(tokens_N[:, None], dtype=torch.float32),
                grad_weights_TE[tokens_N],
            )
            other_ND = ctx.experts.mix(x_TD[tokens_N], alone)
            grad_weights_TE[tokens_N, expert] = (other_ND * grad_TD[tokens_N]).sum(-1).float()
        return grad_TD, grad_weights_TE, None, None, None
