"""The one policy-gradient objective, with four switches: advantage, ratio, clip rule and aggregation.

`L = -agg_it[w_it surrogate(r_it, A_i, l_it)] + beta KL`, over sampled tokens t of replies i to a prompt.
l is the log-probability of a token under the model, l_old when it was sampled, r = exp(l - l_old) and A the
advantage of the reply. With one update for each batch of replies, r is 1 and this is REINFORCE.

Legend: T tokens of a micro-batch, N replies in it, G replies to one prompt.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Self

import torch
from torch import Tensor

from coterie.config.errors import ConfigError
from coterie.config.reinforce import Advantage, PolicySettings
from coterie.config.tune import TuneConfig
from coterie.train.batch import Batch
from coterie.train.objective import Metrics, Objective

if TYPE_CHECKING:
    from coterie.machine.processes import Processes

_TINY = 1e-6


def advantages(rewards: Sequence[Sequence[float]], kind: Advantage) -> list[list[float]]:
    """The advantage of each reply, from the rewards of the groups that it belongs to (G each).

    `mean` (Dr. GRPO, arXiv 2503.20783): reward minus the mean of the group. `group_std` (GRPO, 2402.03300):
    over the group's standard deviation as well. `batch_std` (2508.08221): over that of the whole batch.
    `rloo` (2402.14740): minus the mean of the others, which is G / (G - 1) times `mean`. `maxrl`: over the
    group's mean reward, so that hard prompts count more; a group without a reward gives nothing.
    """
    means = [math.fsum(group) / len(group) for group in rewards]
    centred = [[r - mean for r in group] for group, mean in zip(rewards, means, strict=True)]
    if kind == "group_std":
        return [[a / (_deviation(group) + _TINY) for a in group] for group in centred]
    if kind == "batch_std":
        whole = _deviation([a for group in centred for a in group]) + _TINY
        return [[a / whole for a in group] for group in centred]
    if kind == "rloo":
        return [[a * len(group) / max(1, len(group) - 1) for a in group] for group in centred]
    if kind == "maxrl":
        return [[a / mean if mean > 0 else 0.0 for a in g] for g, mean in zip(centred, means, strict=True)]
    return centred


def _deviation(values: Sequence[float]) -> float:
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((v - mean) ** 2 for v in values) / len(values))


class PolicyGradient(Objective):
    """`-agg[surrogate] + beta KL` over the sampled tokens of a micro-batch.

    Rows carry the streams `sample` (number of the reply), `advantage`, `old_logp` and, with a KL, the
    `reference_logp` of each token. The loop divides by the weight of the whole step: N `max_tokens`
    (`const`), sampled tokens (`token_mean`) or N (`seq_mean`). So neither micro-batches, packing nor
    the number of processes change a step.

    `effective_share`: of the last step, how much its tokens count as samples of the policy after the updates
    so far: (sum r)^2 / (n sum r^2) over n sampled tokens; 1 when all ratios are alike.
    """

    streams: ClassVar[tuple[str, ...]] = ("sample", "advantage", "old_logp")
    lr_factor: ClassVar[float] = 0.3

    def __init__(self, settings: PolicySettings, max_tokens: int) -> None:
        self.settings = settings
        self.max_tokens = max_tokens
        self.effective_share = 1.0
        self._ratios: list[Tensor] = []
        if settings.kl_weight > 0:
            self.streams = (*type(self).streams, "reference_logp")  # type: ignore[misc]

    @classmethod
    def build(cls, settings: TuneConfig) -> Self:
        raise ConfigError("objective reinforce needs replies to learn from; use coterie train reinforce")

    def weight(self, batch: Batch) -> float:
        """What this micro-batch adds to the divisor."""
        if self.settings.aggregate == "token_mean":
            return batch.weight
        count = float(batch.counts["sample"])
        return count * self.max_tokens if self.settings.aggregate == "const" else count

    def __call__(self, logp_T: Tensor, batch: Batch) -> tuple[Tensor, Metrics]:
        """Metrics, as means over the divisor: `kl` (k3), `clipped` and `ratio_minus_1` (its size)."""
        settings = self.settings
        old_T, advantage_T = batch.streams["old_logp"].float(), batch.streams["advantage"].float()
        mask_T = batch.weights_T > 0
        weight_T = self._token_weights(batch, mask_T)
        log_ratio_T = torch.where(mask_T, logp_T - old_T, 0.0)
        if settings.ratio == "sequence":
            log_ratio_T = _by_sequence(log_ratio_T, logp_T, batch, mask_T)
        ratio_T = log_ratio_T.detach().exp()[mask_T].double()
        self._ratios.append(torch.stack([ratio_T.sum(), ratio_T.square().sum(), mask_T.sum().double()]))
        surrogate_T, clipped_T = surrogate(settings, log_ratio_T, advantage_T, logp_T)
        loss = -(weight_T * surrogate_T).sum()
        metrics = {
            "clipped": (weight_T * clipped_T).sum(),
            "ratio_minus_1": (weight_T * (log_ratio_T.detach().exp() - 1).abs()).sum(),
        }
        if settings.kl_weight > 0:
            d_T = torch.where(mask_T, batch.streams["reference_logp"].float() - logp_T, 0.0)
            loss = loss + settings.kl_weight * (weight_T * divergence(settings.kl, d_T)).sum()
            metrics["kl"] = (weight_T * divergence("k3", d_T.detach())).sum()
        return loss, metrics

    def after_step(self, processes: Processes) -> None:
        """Work out the effective share of the step's tokens."""
        sums = torch.stack(self._ratios).sum(0)
        self._ratios.clear()
        processes.sum_in_place([sums])
        total, squares, count = sums.tolist()
        self.effective_share = total * total / (count * squares) if squares else 0.0

    def _token_weights(self, batch: Batch, mask_T: Tensor) -> Tensor:
        """(T,): 1 for each sampled token, or with `seq_mean` 1 over the tokens of its reply."""
        weight_T = mask_T.float()
        if self.settings.aggregate != "seq_mean":
            return weight_T
        return weight_T / _lengths(batch, mask_T)[_samples(batch)]


def surrogate(
    settings: PolicySettings, log_ratio_T: Tensor, advantage_T: Tensor, logp_T: Tensor
) -> tuple[Tensor, Tensor]:
    """(T,) each: what is maximised, and 1 where clipping took a token's gradient.

    `none`: r A. `ppo` (1707.06347; with `clip_high` above `clip_low`: DAPO, 2503.14476): the smaller of r A
    and clip(r) A. `dual` (1912.09729): that, at least 3 A where A < 0. `cispo` (2506.13585): A l times
    min(r, 1 + clip_high), which has no gradient, so no token is dropped.
    """
    ratio_T = log_ratio_T.exp()
    plain_T = ratio_T * advantage_T
    if settings.clip == "none":
        return plain_T, torch.zeros_like(plain_T)
    if settings.clip == "cispo":
        most = 1 + settings.clip_high
        held_T = ratio_T.detach().clamp(max=most)
        return held_T * advantage_T * logp_T, (ratio_T > most).float()
    cut_T = ratio_T.clamp(1 - settings.clip_low, 1 + settings.clip_high) * advantage_T
    chosen_T = torch.minimum(plain_T, cut_T)
    if settings.clip == "dual":
        chosen_T = torch.where(advantage_T < 0, torch.maximum(chosen_T, 3.0 * advantage_T), chosen_T)
    return chosen_T, (chosen_T != plain_T).float()


def divergence(kind: str, d_T: Tensor) -> Tensor:
    """(T,): an estimate of KL(model || reference) from d = l_reference - l on sampled tokens.

    `k1` = -d, `k2` = d^2 / 2, `k3` = exp(d) - d - 1. As a loss, k1 has no gradient in expectation, k2 that of
    the reverse KL on policy, and k3 one that is near it (arXiv 2510.01555).
    """
    if kind == "k1":
        return -d_T
    return d_T.square() / 2 if kind == "k2" else d_T.exp() - d_T - 1


def _samples(batch: Batch) -> Tensor:
    return batch.streams["sample"].clamp_min(0)


def _lengths(batch: Batch, mask_T: Tensor) -> Tensor:
    """(N,): the number of sampled tokens of each reply, at least 1."""
    zeros_N = torch.zeros(batch.counts["sample"], device=mask_T.device)
    return zeros_N.index_add(0, _samples(batch), mask_T.float()).clamp_min(1)


def _by_sequence(log_ratio_T: Tensor, logp_T: Tensor, batch: Batch, mask_T: Tensor) -> Tensor:
    """(T,): the mean log-ratio of each token's reply, with the gradient of the token (GSPO, 2507.18071)."""
    zeros_N = torch.zeros(batch.counts["sample"], device=logp_T.device)
    sums_N = zeros_N.index_add(0, _samples(batch), torch.where(mask_T, log_ratio_T.detach(), 0.0))
    mean_T = (sums_N / _lengths(batch, mask_T))[_samples(batch)]
    return mean_T + torch.where(mask_T, logp_T - logp_T.detach(), 0.0)
