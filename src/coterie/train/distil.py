"""Learning from another model: the divergence of the student's next-token distribution from the teacher's.

T tokens, D width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from coterie.config.errors import ConfigError
from coterie.nn.forward_context import ForwardContext
from coterie.nn.transformer import Transformer
from coterie.train.batch import Batch

_ROWS = 256


class Distilled(nn.Module):
    """A student beside its frozen teacher, for the one loop: build the trainer with it and its `objective`.

    The loss is `(1 - share)` of the cross-entropy and `share` of KL(teacher || student). Logits exist for a
    few hundred tokens at a time. The optimiser is built on `student`. Errors: `ConfigError` for different
    vocabularies.
    """

    def __init__(self, student: Transformer, teacher: Transformer, share: float = 1.0) -> None:
        super().__init__()
        if student.config.vocab_size != teacher.config.vocab_size:
            raise ConfigError(
                "distil: student and teacher have different vocabularies; they need the same tokenizer"
            )
        self.student = student
        self.share = share
        self._teacher = [teacher.eval()]  # in a list, so that it is no part of the module
        self._divergence_T: Tensor | None = None

    def forward(self, ids_T: Tensor, context: ForwardContext) -> Tensor:
        h_TD: Tensor = self.student(ids_T, context)
        teacher = self._teacher[0]
        with torch.no_grad():
            # The teacher's routers keep no statistics.
            taught_TD = teacher(ids_T, replace(context, balance_tokens=None))
        parts = [
            checkpoint(
                _divergence, h, self.student.head_weight, taught, teacher.head_weight, use_reentrant=False
            )
            for h, taught in zip(h_TD.split(_ROWS), taught_TD.split(_ROWS), strict=True)
        ]
        self._divergence_T = torch.cat(parts)
        return h_TD

    @property
    def head_weight(self) -> Tensor:
        return self.student.head_weight

    def after_step(self) -> dict[str, float]:
        """End of an optimiser step: the student's."""
        return self.student.after_step()

    def training_buffers(self) -> dict[str, Tensor]:
        """The student's."""
        return self.student.training_buffers()

    def objective(self, logp_T: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Sum over the micro-batch that `forward` has just seen; the metric is `distil_kl` (nats per
        token).
        """
        assert self._divergence_T is not None
        divergence = (self._divergence_T * batch.weights_T).sum()
        self._divergence_T = None
        loss = -(logp_T * batch.weights_T).sum() * (1 - self.share) + self.share * divergence
        return loss, {"distil_kl": divergence}


def _divergence(h_TD: Tensor, head_VD: Tensor, taught_TD: Tensor, taught_head_VD: Tensor) -> Tensor:
    """(T,): KL(teacher || student) over the whole vocabulary, float32."""
    with torch.no_grad():
        taught_TV = (taught_TD @ taught_head_VD.to(taught_TD.dtype).t()).float().log_softmax(-1)
    student_TV = (h_TD @ head_VD.to(h_TD.dtype).t()).float().log_softmax(-1)
    return (taught_TV.exp() * (taught_TV - student_TV)).sum(-1)
