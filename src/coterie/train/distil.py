"""Learning from another model: the divergence of the student's next-token distribution from the teacher's.

T tokens, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Self

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from coterie.config.errors import ConfigError
from coterie.config.tune import TuneConfig
from coterie.nn.logprobs import capped
from coterie.nn.transformer import Transformer
from coterie.train.batch import Batch
from coterie.train.objective import Metrics, Objective

_ROWS = 256


class Distillation(Objective):
    """`(1 - share)` of the cross-entropy and `share` of KL(teacher || student), with a frozen teacher.

    Logits exist for a few hundred tokens at a time, so memory does not grow with T times V.
    Errors: `ConfigError` for different vocabularies.
    """

    def __init__(self, student: Transformer, teacher: Transformer, share: float = 1.0) -> None:
        if student.config.vocab_size != teacher.config.vocab_size:
            raise ConfigError(
                "distil: student and teacher have different vocabularies; they need the same tokenizer"
            )
        self.teacher = teacher.eval()
        self.caps = student.logit_cap, teacher.logit_cap
        self.share = share

    @classmethod
    def build(cls, settings: TuneConfig) -> Self:
        raise ConfigError("objective distil needs a teacher, which tuning does not have; choose another")

    def derive(self, h_TD: Tensor, head_VD: Tensor, batch: Batch) -> Mapping[str, Tensor]:
        """The stream `divergence` (T,): KL(teacher || student) in nats."""
        teacher = self.teacher
        with torch.no_grad():
            # The teacher's routers keep no statistics.
            taught_TD = teacher(batch.ids_T, replace(batch.context, balance_tokens=None))
        parts = [
            checkpoint(_divergence, h, head_VD, taught, teacher.head_weight, *self.caps, use_reentrant=False)
            for h, taught in zip(h_TD.split(_ROWS), taught_TD.split(_ROWS), strict=True)
        ]
        return {"divergence": torch.cat(parts)}

    def __call__(self, logp_T: Tensor, batch: Batch) -> tuple[Tensor, Metrics]:
        """The metric is `distil_kl`, in nats per token."""
        divergence = (batch.streams["divergence"] * batch.weights_T).sum()
        loss = -(logp_T * batch.weights_T).sum() * (1 - self.share) + self.share * divergence
        return loss, {"distil_kl": divergence}


def _divergence(
    h_TD: Tensor,
    head_VD: Tensor,
    taught_TD: Tensor,
    taught_head_VD: Tensor,
    cap: float | None,
    taught_cap: float | None,
) -> Tensor:
    """(T,): KL(teacher || student) over the whole vocabulary, float32."""
    with torch.no_grad():
        taught_TV = capped((taught_TD @ taught_head_VD.to(taught_TD.dtype).t()).float(), taught_cap)
        taught_TV = taught_TV.log_softmax(-1)
    student_TV = capped((h_TD @ head_VD.to(h_TD.dtype).t()).float(), cap).log_softmax(-1)
    return (taught_TV.exp() * (taught_TV - student_TV)).sum(-1)
