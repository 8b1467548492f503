"""What a step minimises: the base class of objectives, and cross-entropy. T tokens, D width, V vocabulary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

from torch import Tensor

from coterie.config.errors import TrainingError
from coterie.data.tuning_rows import ExampleKind

if TYPE_CHECKING:
    from coterie.config.tune import TuneConfig
    from coterie.machine.processes import Processes
    from coterie.train.batch import Batch

Metrics = dict[str, Tensor]

# Where a stream comes from: the end of the message for rows that lack it.
HOW_TO_GET = {
    "pair": "give data with preferences or labels",
    "side": "give data with preferences (chosen, rejected)",
    "margin": "give data with preferences (chosen, rejected)",
    "label": "give data with labels (prompt, completion, label)",
    "reference_logp": "pass the rows through train.preference.with_reference first",
}


class Objective:
    """A sum over the tokens of a micro-batch, and what the loop divides it by.

    The loop calls, in this order: `require` and `weight` for every micro-batch of a step; then, for each,
    `derive` and the objective itself; `after_step` once the optimiser has moved. Because everything is a sum
    that is divided once per step, packing, padding, accumulation and the number of processes change nothing.

    Class attributes: `streams` names the per-token streams that rows must carry (`Row.streams`); `examples`
    is the kind of data that `tune` must find; `lr_factor` scales the default learning rate.
    A new objective is a subclass and a line in `train.objectives.OBJECTIVES`.
    """

    streams: ClassVar[tuple[str, ...]] = ()
    examples: ClassVar[ExampleKind] = "imitation"
    lr_factor: ClassVar[float] = 1.0

    @classmethod
    def build(cls, settings: TuneConfig) -> Self:
        """The objective with the constants of `settings`. Errors: `ConfigError`."""
        return cls()

    def require(self, batch: Batch) -> None:
        """Refuse a micro-batch without a stream that this objective reads. Errors: `TrainingError`."""
        for name in self.streams:
            if name not in batch.streams:
                how = HOW_TO_GET.get(name, "add it to Row.streams")
                raise TrainingError(
                    f"objective {type(self).__name__} needs the stream '{name}', which the rows lack; {how}"
                )

    def weight(self, batch: Batch) -> float:
        """What this micro-batch adds to the divisor: by default its token weight. No wait for the device."""
        return batch.weight

    def derive(self, h_TD: Tensor, head_VD: Tensor, batch: Batch) -> Mapping[str, Tensor]:
        """Further streams (T, ...) computed from the hidden states; gradients flow through them.

        For objectives that need more of the distribution than the log-probability of the target.
        """
        return {}

    def __call__(self, logp_T: Tensor, batch: Batch) -> tuple[Tensor, Metrics]:
        """`(sum to minimise, metrics)`; metrics are sums as well, divided by the same weight.

        `logp_T`: float32 log-probabilities of the targets, in nats; of those that are not learnt it may be 0.
        """
        raise NotImplementedError

    def after_step(self, processes: Processes) -> None:
        """The optimiser has moved."""

    def state_dict(self) -> dict[str, Any]:
        """State to keep in a checkpoint (JSON types)."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""


class CrossEntropy(Objective):
    """The weighted sum of `-log p(target)` in nats; no further metrics."""

    def __call__(self, logp_T: Tensor, batch: Batch) -> tuple[Tensor, Metrics]:
        return -(logp_T * batch.weights_T).sum(), {}
