"""Learning on the student's own replies: what the teacher makes of each token, and its distance.

T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from coterie.config.reinforce import PolicySettings
from coterie.data.rows import Row
from coterie.nn.logprobs import token_logprobs
from coterie.nn.packed import PASS_TOKENS
from coterie.nn.transformer import Transformer
from coterie.train.batch import Batch, collate
from coterie.train.distil import Distillation
from coterie.train.objective import Metrics
from coterie.train.policy_gradient import PolicyGradient


class TeacherReward(PolicyGradient):
    """A policy gradient whose advantage for a token is log p(teacher) - log p(student when it was sampled).

    On average over replies it is the gradient of the sum over positions of KL(student || teacher), for the
    prefixes that the student wrote.
    """

    streams: ClassVar[tuple[str, ...]] = ("sample", "old_logp")

    def __init__(self, teacher: Transformer, max_tokens: int) -> None:
        super().__init__(PolicySettings(aggregate="token_mean"), max_tokens)
        self.teacher = teacher.eval()

    def derive(self, h_TD: Tensor, head_VD: Tensor, batch: Batch) -> Mapping[str, Tensor]:
        """The stream `advantage` (T,)."""
        teacher = self.teacher
        with torch.no_grad():
            taught_TD = teacher(batch.ids_T, replace(batch.context, balance_tokens=None))
            own_T = token_logprobs(taught_TD, teacher.head_weight, batch.targets_T, cap=teacher.logit_cap)
        return {"advantage": own_T - batch.streams["old_logp"].float()}

    def __call__(self, logp_T: Tensor, batch: Batch) -> tuple[Tensor, Metrics]:
        """Metrics: those of `PolicyGradient`, and `distil_kl`, estimated from the sampled tokens."""
        loss, metrics = super().__call__(logp_T, batch)
        mask_T = batch.weights_T > 0
        return loss, metrics | {"distil_kl": -torch.where(mask_T, batch.streams["advantage"], 0.0).sum()}


@torch.no_grad()
def reply_divergences(student: Transformer, objective: Distillation, rows: Sequence[Row]) -> list[float]:
    """For each row the mean over its learnt tokens of the objective's divergence, in nats."""
    training = student.training
    student.eval()
    found = []
    size = max(1, PASS_TOKENS // max(len(row.ids) for row in rows))
    for group in (rows[at : at + size] for at in range(0, len(rows), size)):
        batch = collate(group, student.embed.weight.device)
        h_TD = student(batch.ids_T, batch.context)
        learnt_T = batch.weights_T > 0
        divergence_T = objective.derive(h_TD, student.head_weight, batch)["divergence"]
        sizes = [len(row.ids) for row in group]
        for values, learnt in zip(divergence_T.split(sizes), learnt_T.split(sizes), strict=True):
            found.append(float(values[learnt].mean()))
    student.train(training)
    return found
