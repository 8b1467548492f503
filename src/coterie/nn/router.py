"""The one router of every family, and the record that keeps experts evenly used.

T tokens, D width, E experts, K chosen experts per token, N groups of experts.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from coterie.config.feed_forward import BalanceConfig, RouterConfig
from coterie.nn.linear import linear
from coterie.nn.load import load_statistics
from coterie.nn.norm import rms
from coterie.nn.recompute import recomputing


class Routing(NamedTuple):
    """Which experts each token goes to.

    `ids_TK` int64; `weights_TK` fp32, the factor on the expert's input or output; `scores_TE` fp32,
    the score of every expert (softmax, or sigmoid), before selection.
    """

    ids_TK: Tensor
    weights_TK: Tensor
    scores_TE: Tensor


class Steer(NamedTuple):
    """How single tokens differ from the trained routing.

    `add_TE` is added to the logits; -inf there: never chosen. `top_k_T`: experts per token, the rest of
    `most` chosen ones get weight 0. `fixed_TK` int64: the experts that a token goes to whatever its scores
    say (a row of -1: it chooses), as routing replay needs (R3, arXiv 2510.11370); the weights are still made
    of the scores, so that the router learns.
    """

    add_TE: Tensor | None
    top_k_T: Tensor
    most: int
    fixed_TK: Tensor | None = None


class _AttachLoss(torch.autograd.Function):
    """Passes `x` through; in the backward pass `loss` gets gradient 1, as if it were added to the total."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, loss: Tensor) -> Tensor:
        ctx.loss_shape = loss.shape
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        return grads[0], torch.ones(ctx.loss_shape, dtype=torch.float32, device=grads[0].device)


class Balance(nn.Module):
    """Statistics of one router over the global batch, the losses and the bias rule that use them.

    The rules and their papers are in docs/design/balance.md.

    `counts_E`, `score_sum_E`, `z_sum` and `num_tokens` are sums over the valid tokens of all micro-batches
    since the last `commit`. `fraction_E` holds the share of assignments per expert of the step before; the
    balance loss `E * sum_e fraction_e * mean_t(p_te)` uses it as a constant, so that gradient accumulation
    and the number of processes cannot change a step (a loss on the current micro-batch's own counts would).
    The gradient has the form of the global-batch loss of Qwen3 (arXiv 2501.11873), one step late.
    """

    counts_E: Tensor
    score_sum_E: Tensor
    z_sum: Tensor
    num_tokens: Tensor
    fraction_E: Tensor

    def __init__(self, num_experts: int, config: BalanceConfig) -> None:
        super().__init__()
        self.config = config
        for name, shape in (
            ("counts_E", (num_experts,)),
            ("score_sum_E", (num_experts,)),
            ("z_sum", ()),
            ("num_tokens", ()),
        ):
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float64), persistent=False)
        uniform = torch.full((num_experts,), 1.0 / num_experts, dtype=torch.float32)
        self.register_buffer("fraction_E", uniform, persistent=False)

    def reset(self) -> None:
        """Forget everything seen (a new run)."""
        for buffer in (self.counts_E, self.score_sum_E, self.z_sum, self.num_tokens):
            buffer.zero_()
        self.fraction_E.fill_(1.0 / self.fraction_E.numel())

    def observe(
        self, routing: Routing, logits_TE: Tensor, valid_T: Tensor | None, balance_tokens: float
    ) -> Tensor | None:
        """Add one micro-batch. Returns the loss to attach, divided by the global token count, or None."""
        scores_TE, ids_TK = routing.scores_TE, routing.ids_TK
        if valid_T is not None:
            scores_TE, ids_TK, logits_TE = scores_TE[valid_T], ids_TK[valid_T], logits_TE[valid_T]
        share_TE = scores_TE / scores_TE.sum(-1, keepdim=True).clamp_min(1e-20)
        score_sum_E = share_TE.sum(0)
        z_T = torch.logsumexp(logits_TE, -1).square()
        num_experts = self.counts_E.numel()
        if not recomputing():
            self._count(ids_TK, score_sum_E, z_T)
        losses = []
        if self.config.loss_coef:
            losses.append(self.config.loss_coef * num_experts * (self.fraction_E * score_sum_E).sum())
        if self.config.z_loss_coef:
            losses.append(self.config.z_loss_coef * z_T.sum())
        return torch.stack(losses).sum() / balance_tokens if losses else None

    @torch.no_grad()
    def _count(self, ids_TK: Tensor, score_sum_E: Tensor, z_T: Tensor) -> None:
        num_experts = self.counts_E.numel()
        self.counts_E += torch.bincount(ids_TK.flatten(), minlength=num_experts).to(torch.float64)
        self.score_sum_E += score_sum_E.double()
        self.z_sum += z_T.sum().double()
        self.num_tokens += ids_TK.shape[0]

    @torch.no_grad()
    def commit(self, select_bias_E: Tensor | None) -> dict[str, float]:
        """End of an optimiser step: move the selection bias, remember the fractions, empty the sums.

        Returns `dead_experts` (got no token), `worst_overload` (largest count over the mean), `balance_loss`
        (the global-batch value, 1 when uniform), `z_loss` and `load_entropy` (1 when uniform).
        """
        total = float(self.counts_E.sum())
        if total == 0:
            return {}
        num_experts = self.counts_E.numel()
        fraction_E = self.counts_E / total
        mean_score_E = self.score_sum_E / self.num_tokens
        load = load_statistics(self.counts_E.tolist())
        stats = {
            "dead_experts": float(len(load.dead)),
            "worst_overload": load.overload,
            "balance_loss": float(num_experts * (fraction_E * mean_score_E).sum()),
            "z_loss": float(self.z_sum / self.num_tokens),
            "load_entropy": load.entropy,
        }
        if select_bias_E is not None and self.config.bias_rate:
            step_E = self.config.bias_rate * torch.sign(1.0 / num_experts - fraction_E)
            select_bias_E += step_E.to(select_bias_E.dtype)
        self.fraction_E.copy_(fraction_E)
        for buffer in (self.counts_E, self.score_sum_E, self.z_sum, self.num_tokens):
            buffer.zero_()
        return stats


class Router(nn.Module):
    """Scores experts in fp32 and chooses K per token; every family is a setting of `RouterConfig`.

    Reads x (T, D); returns `Routing`. With `balance_tokens` (the valid tokens of the global batch) the
    statistics are recorded and the balance losses attached to the weights' gradient.
    """

    select_bias: Tensor | None

    def __init__(self, width: int, config: RouterConfig, balance: BalanceConfig) -> None:
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.empty(config.num_experts, width))
        self.bias = nn.Parameter(torch.zeros(config.num_experts)) if config.bias else None
        normed = config.input_norm_eps is not None
        self.input_scale = nn.Parameter(torch.ones(width)) if normed else None
        self.expert_scale = nn.Parameter(torch.ones(config.num_experts)) if config.expert_scale else None
        self.register_buffer("select_bias", torch.zeros(config.num_experts) if config.select_bias else None)
        self.balance = Balance(config.num_experts, balance)

    def forward(
        self,
        x_TD: Tensor,
        valid_T: Tensor | None = None,
        balance_tokens: float | None = None,
        steer: Steer | None = None,
    ) -> Routing:
        """The routing of x (T, D); `valid_T`: the tokens that count in the statistics (None: all)."""
        logits_TE = self.logits(x_TD)
        routing = self.route(logits_TE, steer)
        if balance_tokens is not None:
            loss = self.balance.observe(routing, logits_TE, valid_T, balance_tokens)
            if loss is not None and torch.is_grad_enabled():
                routing = routing._replace(weights_TK=_AttachLoss.apply(routing.weights_TK, loss))
        return routing

    def logits(self, x_TD: Tensor) -> Tensor:
        """(T, E) in fp32: the scores before softmax or sigmoid; adapted forms override it."""
        bias_E = self.bias.float() if self.bias is not None else None
        return linear(self.read(x_TD), self.weight.float(), bias_E)

    def read(self, x_TD: Tensor) -> Tensor:
        """(T, D) in fp32: the input as the weight is multiplied with it."""
        x_TD = x_TD.float()
        if self.input_scale is None or self.config.input_norm_eps is None:
            return x_TD
        scale_D = self.input_scale.float() * x_TD.shape[-1] ** -0.5
        return rms(x_TD, self.config.input_norm_eps) * scale_D

    def effective_weight(self) -> Tensor:
        """The `(E, D)` weight that `logits` is equal to."""
        return self.weight

    def route(self, logits_TE: Tensor, steer: Steer | None = None) -> Routing:
        """Selection and weights from fp32 logits (T, E)."""
        config = self.config
        never_TE, top_k = None, config.top_k
        if steer is not None:
            top_k = steer.most
            if steer.add_TE is not None:
                logits_TE = logits_TE + steer.add_TE
                never_TE = steer.add_TE == float("-inf")
        scores_TE = logits_TE.softmax(-1) if config.score == "softmax" else logits_TE.sigmoid()
        basis_TE = logits_TE if config.score_after_topk else scores_TE
        selection_TE = basis_TE.detach()
        if self.select_bias is not None:
            selection_TE = selection_TE + self.select_bias.float()
        if never_TE is not None:
            selection_TE = selection_TE.masked_fill(never_TE, float("-inf"))
        ids_TK = self._keep_groups(selection_TE).topk(top_k, dim=-1).indices
        if steer is not None and steer.fixed_TK is not None:
            ids_TK = torch.where(steer.fixed_TK < 0, ids_TK, steer.fixed_TK)
        weights_TK = basis_TE.gather(-1, ids_TK)
        off_TK = None if steer is None else _off(steer, never_TE, ids_TK)
        if off_TK is not None:
            # A score that no softmax or sigmoid has seen yet is switched off before it, the others after.
            weights_TK = weights_TK.masked_fill(off_TK, float("-inf") if config.score_after_topk else 0.0)
        if config.score_after_topk:
            weights_TK = weights_TK.softmax(-1) if config.score == "softmax" else weights_TK.sigmoid()
        if config.renormalize:
            sum_T1 = weights_TK.sum(-1, keepdim=True)
            if config.renormalize_min:
                sum_T1 = sum_T1.clamp_min(config.renormalize_min)
            weights_TK = weights_TK / (sum_T1 + config.renormalize_eps)
        if config.scale != 1.0:
            weights_TK = weights_TK * config.scale
        if self.expert_scale is not None:
            weights_TK = weights_TK * self.expert_scale.float()[ids_TK]
        return Routing(ids_TK, weights_TK, scores_TE)

    def _keep_groups(self, selection_TE: Tensor) -> Tensor:
        """Selection scores with all but the best `top_groups` groups filled (DeepSeek-V2 and V3)."""
        config = self.config
        if config.num_groups == 1:
            return selection_TE
        grouped_TNE = selection_TE.unflatten(-1, (config.num_groups, -1))
        if config.group_score == "max":
            group_TN = grouped_TNE.amax(-1)
        else:
            group_TN = grouped_TNE.topk(2, dim=-1).values.sum(-1)
        kept = group_TN.topk(config.top_groups, dim=-1).indices
        drop_TN = torch.ones_like(group_TN, dtype=torch.bool).scatter_(-1, kept, False)
        fill = 0.0 if config.group_fill == "zero" else float("-inf")
        return grouped_TNE.masked_fill(drop_TN[..., None], fill).flatten(-2)


def _off(steer: Steer, never_TE: Tensor | None, ids_TK: Tensor) -> Tensor:
    """bool (T, K): choices beyond a token's number of experts, and masked experts where too few were left."""
    off_TK = torch.arange(ids_TK.shape[1], device=ids_TK.device) >= steer.top_k_T[:, None]
    return off_TK if never_TE is None else off_TK | never_TE.gather(-1, ids_TK)
