"""Learning from another model: the divergence of the student's next-token distribution from the teacher's.

The teacher answers at every step, or its answers were kept before (`data.teacher_targets`) and come as
streams of the rows. T tokens, D width, V vocabulary, C tokens of one chunk, K kept or drawn tokens.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from coterie.config.distill import TargetKind
from coterie.config.errors import ConfigError, TrainingError
from coterie.config.tune import TuneConfig
from coterie.config.weighting import WeightSettings
from coterie.data.teacher_targets import OWN, STREAMS
from coterie.machine.processes import Processes
from coterie.nn.logprobs import capped
from coterie.nn.transformer import Transformer
from coterie.train.batch import Batch
from coterie.train.objective import Metrics, Objective

CHUNK = 256
WHOLE = WeightSettings(kind="const", most=1.0)


class Distillation(Objective):
    """`(1 - share_t) CE_t + share_t temperature^2 KL(teacher || student)_t`, summed over the tokens.

    `weighting` says what `share_t` is; no gradient flows through it. `teacher`: a frozen model that answers
    here, or the kind of its kept answers, which the rows carry. `cap`: of the student's scores
    (`Transformer.logit_cap`). `steps`: of the whole run. `beta`: above 0 the divergence is another one
    (`mixed_divergence`), for a teacher that answers here.

    Logits exist for a few hundred tokens at a time, so memory does not grow with T times V. Where the
    vocabularies differ in size (rows without a token), the teacher's distribution is over the smaller one.
    Source of the weighting's idea, without a formula: Llama 4's codistillation. Buckets and samples:
    arXiv 2503.16870.
    """

    def __init__(
        self,
        teacher: Transformer | TargetKind,
        cap: float | None = None,
        weighting: WeightSettings = WHOLE,
        temperature: float = 1.0,
        steps: int = 1,
        beta: float = 0.0,
    ) -> None:
        self.teacher = teacher.eval() if isinstance(teacher, Transformer) else teacher
        self.cap = cap
        self.weighting, self.temperature, self.steps, self.beta = weighting, temperature, steps, beta
        self.done = 0
        self._streams = () if isinstance(teacher, Transformer) else STREAMS[teacher]

    @classmethod
    def build(cls, settings: TuneConfig) -> Self:
        raise ConfigError("objective distil needs a teacher; use coterie train distill")

    def require(self, batch: Batch) -> None:
        for name in self._streams:
            if name not in batch.streams:
                raise TrainingError(
                    f"objective distil needs the stream '{name}', which the rows lack; take a cache's rows"
                )

    def derive(self, h_TD: Tensor, head_VD: Tensor, batch: Batch) -> Mapping[str, Tensor]:
        """The streams `divergence` (T,), KL(teacher || student) in nats, and `teacher_own` (T,)."""
        if isinstance(self.teacher, Transformer):
            return self._asked(self.teacher, h_TD, head_VD, batch)
        kept = [batch.streams[name] for name in self._streams if name != OWN]
        divergence_T = self._chunked(KEPT[self.teacher], h_TD, head_VD, kept)
        return {"divergence": divergence_T, OWN: batch.streams[OWN].float()}

    @torch.no_grad()
    def hidden(self, teacher: Transformer, batch: Batch) -> Tensor:
        """(T, D): what the teacher makes of a micro-batch. Its routers keep no statistics."""
        taught_TD: Tensor = teacher(batch.ids_T, replace(batch.context, balance_tokens=None))
        return taught_TD

    def _asked(
        self, teacher: Transformer, h_TD: Tensor, head_VD: Tensor, batch: Batch
    ) -> Mapping[str, Tensor]:
        taught_TD = self.hidden(teacher, batch)

        def divergence(scores_CV: Tensor, taught_CD: Tensor, targets_C: Tensor) -> Tensor:
            with torch.no_grad():
                taught_CV = teacher_scores(teacher, taught_CD, scores_CV.shape[1])
                own_C = taught_CV.log_softmax(-1).gather(1, targets_C[:, None])[:, 0]
                taught_CV = (taught_CV / self.temperature).log_softmax(-1)
            return torch.stack([mixed_divergence(scores_CV, taught_CV, self.beta), own_C], 1)

        both_T2 = self._chunked(divergence, h_TD, head_VD, [taught_TD, batch.targets_T])
        return {"divergence": both_T2[:, 0], OWN: both_T2[:, 1].detach()}

    def _chunked(self, divergence: Any, h_TD: Tensor, head_VD: Tensor, kept: Sequence[Tensor]) -> Tensor:
        """`divergence(scores_CV, *kept)` of a chunk of tokens at a time, computed again for the gradient."""

        def one(h_CD: Tensor, weight_VD: Tensor, *own: Tensor) -> Tensor:
            scores_CV = capped((h_CD @ weight_VD.to(h_CD.dtype).t()).float(), self.cap)
            return divergence(scores_CV / self.temperature, *own)  # type: ignore[no-any-return]

        chunks = zip(h_TD.split(CHUNK), *(one.split(CHUNK) for one in kept), strict=True)
        return torch.cat([checkpoint(one, h, head_VD, *own, use_reentrant=False) for h, *own in chunks])

    def share(self, logp_T: Tensor, own_T: Tensor) -> Tensor:
        """(T,): the teacher's share of each token's loss, without a gradient."""
        share_T = torch.full_like(logp_T, self.weighting.at(self.done / self.steps))
        if self.weighting.kind == "gated":
            share_T *= torch.sigmoid((own_T - logp_T.detach()) / self.weighting.kappa)
        return share_T

    def __call__(self, logp_T: Tensor, batch: Batch) -> tuple[Tensor, Metrics]:
        """Metrics are means over the learnt tokens.

        `cross_entropy` and `distil_kl` in nats; `distil_share`: the teacher's share of the loss;
        `teacher_better`: where the teacher finds the token likelier than the student does.
        """
        divergence_T, own_T, weights_T = batch.streams["divergence"], batch.streams[OWN], batch.weights_T
        share_T = self.share(logp_T, own_T)
        loss_T = share_T * self.temperature**2 * divergence_T - (1 - share_T) * logp_T
        return (loss_T * weights_T).sum(), {
            "cross_entropy": -(logp_T * weights_T).sum(),
            "distil_kl": (divergence_T * weights_T).sum(),
            "distil_share": (share_T * weights_T).sum(),
            "teacher_better": ((own_T > logp_T) * weights_T).sum(),
        }

    def after_step(self, processes: Processes) -> None:
        self.done += 1

    def state_dict(self) -> dict[str, Any]:
        return {"done": self.done}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.done = int(state["done"])


def teacher_scores(teacher: Transformer, h_CD: Tensor, vocab_size: int) -> Tensor:
    """(C, V) float32: the teacher's scores over the tokens that the student has too."""
    head_VD = teacher.head_weight[:vocab_size]
    return capped((h_CD @ head_VD.to(h_CD.dtype).t()).float(), teacher.logit_cap)


def full_divergence(scores_CV: Tensor, taught_CV: Tensor) -> Tensor:
    """(C,): KL over the whole vocabulary. `taught_CV`: log-probabilities, of the first tokens at least."""
    student_CV = scores_CV.log_softmax(-1)[:, : taught_CV.shape[1]]
    taught_CV = taught_CV.float()
    return (taught_CV.exp() * (taught_CV - student_CV)).sum(-1)


def mixed_divergence(scores_CV: Tensor, taught_CV: Tensor, beta: float) -> Tensor:
    """(C,): the generalised Jensen-Shannon divergence of GKD (arXiv 2306.13649) over the shared vocabulary.

    With m = beta teacher + (1 - beta) student it is beta KL(teacher || m) + (1 - beta) KL(student || m), and
    at its ends what it tends to, over beta or 1 - beta: KL(teacher || student) at 0, KL(student || teacher)
    at 1.
    """
    if beta == 0:
        return full_divergence(scores_CV, taught_CV)
    student_CV, taught_CV = scores_CV[:, : taught_CV.shape[1]].log_softmax(-1), taught_CV.float()
    if beta == 1:
        return (student_CV.exp() * (student_CV - taught_CV)).sum(-1)
    mixture_CV = torch.logaddexp(taught_CV + math.log(beta), student_CV + math.log1p(-beta))
    ahead_C = (taught_CV.exp() * (taught_CV - mixture_CV)).sum(-1)
    behind_C = (student_CV.exp() * (student_CV - mixture_CV)).sum(-1)
    return beta * ahead_C + (1 - beta) * behind_C


def bucketed_divergence(scores_CV: Tensor, ids_CK: Tensor, taught_CK: Tensor, tail_C: Tensor) -> Tensor:
    """(C,): KL over K single tokens and one bucket of all others; a lower bound of the whole one.

    `taught_CK`: log-probabilities of `ids_CK`; `tail_C`: log of the mass of all others. Nothing is
    renormalised, so the student learns how much mass the kept tokens have.
    """
    ids_CK, taught_CK, tail_C = ids_CK.long(), taught_CK.float(), tail_C.float()
    rest_C = scores_CV.scatter(1, ids_CK, -torch.inf).logsumexp(-1)
    total_C = scores_CV.logsumexp(-1)
    kept_CK = scores_CV.gather(1, ids_CK) - total_C[:, None]
    inside_C = (taught_CK.exp() * (taught_CK - kept_CK)).sum(-1)
    return inside_C + tail_C.exp() * (tail_C - (rest_C - total_C))


def drawn_divergence(scores_CV: Tensor, ids_CK: Tensor, entropy_C: Tensor) -> Tensor:
    """(C,): an unbiased estimate of KL from K draws of the teacher. `entropy_C`: the teacher's, in nats."""
    return -scores_CV.log_softmax(-1).gather(1, ids_CK.long()).mean(-1) - entropy_C.float()


KEPT: dict[TargetKind, Any] = {
    "full": full_divergence,
    "topk": bucketed_divergence,
    "sampled": drawn_divergence,
}
