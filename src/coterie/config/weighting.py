"""How much of a token's loss is the teacher's, over a run of distillation."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from coterie.config.base import Settings


class WeightSettings(Settings):
    """The teacher's share of the loss of a token.

    The loss is `(1 - share) CE + share * temperature^2 * KL(teacher || student)`. `most`: the largest share.
    `const`: always that. `linear`: it grows to that over the first `ramp` of the steps. `gated`: it is also
    multiplied by `sigmoid((CE of the student - CE of the teacher) / kappa)`, so that the teacher counts where
    it knows the token better than the student does, and little where it is wrong. `kappa` is in nats.

    `const` is the default because it is what helps (`bench/distill.py`). A gate hands the surprising targets
    back to cross-entropy: the noise that a teacher's distribution is there to remove.
    """

    kind: Literal["const", "linear", "gated"] = "const"
    most: float = Field(0.9, gt=0, le=1)
    ramp: float = Field(0.1, ge=0, le=1)
    kappa: float = Field(0.5, gt=0)

    def at(self, progress: float) -> float:
        """The largest share at `progress` (0 to 1) of the run."""
        ramped = self.kind == "const" or progress >= self.ramp
        return self.most if ramped else self.most * progress / self.ramp
