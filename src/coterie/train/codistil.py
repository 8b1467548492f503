"""Co-distillation: a teacher and its students learn in the same step, from one forward pass of the teacher.

T tokens, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from coterie.machine.processes import Processes
from coterie.nn.transformer import Transformer
from coterie.train.batch import Batch
from coterie.train.distil import Distillation
from coterie.train.objective import CrossEntropy


class SharedForward(CrossEntropy):
    """The cross-entropy of a teacher; its hidden states are kept until its weights move.

    They are (T, D) for each micro-batch, so the memory does not grow with V. Nothing else changes: the
    teacher's steps are those of `CrossEntropy`, bit for bit.
    """

    def __init__(self) -> None:
        self._kept: list[tuple[Tensor, Tensor]] = []

    def derive(self, h_TD: Tensor, head_VD: Tensor, batch: Batch) -> Mapping[str, Tensor]:
        self._kept.append((batch.ids_T, h_TD.detach()))
        return {}

    def after_step(self, processes: Processes) -> None:
        self._kept.clear()

    def hidden(self, batch: Batch) -> Tensor:
        """(T, D): what the teacher computed for this micro-batch in this step.

        Errors: `LookupError` where it has not read it, or has moved since.
        """
        for ids_T, h_TD in self._kept:
            if ids_T.equal(batch.ids_T):
                return h_TD
        raise LookupError("the teacher has not read this micro-batch in this step")


class Codistillation(Distillation):
    """`Distillation` from the hidden states that a teacher in training has just computed.

    `settings`: the further arguments of `Distillation`.
    """

    def __init__(self, teacher: Transformer, shared: SharedForward, *settings: Any) -> None:
        super().__init__(teacher, *settings)
        self.shared = shared

    def hidden(self, teacher: Transformer, batch: Batch) -> Tensor:
        return self.shared.hidden(batch)
