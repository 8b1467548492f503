"""Objectives that learn from preferences and labels (`Batch.judged`): DPO and its forms, ORPO, KTO.

All are sums over the preferences or labels of a micro-batch; the loop divides by their number in the whole
step, so that packing, padding and accumulation change nothing. Notation: pi is the model, r the reference, c
chosen, j rejected; log-probabilities are summed over the learnt tokens of a segment, or averaged over them
where `normalise` says so. N segments.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from coterie.config.errors import TrainingError
from coterie.data.rows import Row
from coterie.nn.logprobs import token_logprobs
from coterie.nn.transformer import Transformer
from coterie.train.batch import Batch, collate
from coterie.train.callbacks import Callback
from coterie.train.loop import Trainer, all_reduce_sum
from coterie.train.objectives import Objective

Metrics = dict[str, Tensor]


def segment_sums(logp_T: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """(N,) log-probability of what is learnt in each segment, and how many tokens that is."""
    lengths = torch.tensor(batch.context.lengths, device=logp_T.device)
    segment_T = torch.repeat_interleave(torch.arange(len(lengths), device=logp_T.device), lengths)
    empty_N = torch.zeros(len(lengths), dtype=torch.float32, device=logp_T.device)
    return (
        empty_N.index_add(0, segment_T, logp_T * batch.weights_T),
        empty_N.index_add(0, segment_T, batch.weights_T),
    )


def _pairs(logp_T: Tensor, batch: Batch, normalise: bool, reference: bool) -> tuple[Tensor, ...]:
    """(chosen, rejected, reference chosen, reference rejected, margin), one number per preference."""
    if any(mark.segments != 2 for _, mark in batch.judged) or not batch.judged:
        raise TrainingError("the objective learns from preferences, and a row holds none; check the data")
    sums_N, counts_N = segment_sums(logp_T, batch)
    first = torch.tensor([at for at, _ in batch.judged], device=logp_T.device)
    known = [mark.reference or (0.0, 0.0) for _, mark in batch.judged]
    if reference and any(not mark.reference for _, mark in batch.judged):
        raise TrainingError("the objective needs log-probabilities of the reference, and a row has none")
    reference_P2 = torch.tensor(known, dtype=torch.float32, device=logp_T.device)
    values = [sums_N[first], sums_N[first + 1], reference_P2[:, 0], reference_P2[:, 1]]
    if normalise:
        counts = [counts_N[first], counts_N[first + 1]]
        values = [value / count for value, count in zip(values, [*counts, *counts], strict=True)]
    margin = torch.tensor([mark.margin for _, mark in batch.judged], device=logp_T.device)
    return (*values, margin)


def dpo(beta: float = 0.1, form: Literal["sigmoid", "ipo"] = "sigmoid", normalise: bool = False) -> Objective:
    """Direct preference optimisation.

    With h = (pi_c - r_c) - (pi_j - r_j): `sigmoid` is `-log sigmoid(beta h - margin)` (arXiv 2305.18290;
    `normalise`: per token, as in length-normalised DPO of Tulu 3, arXiv 2411.15124); `ipo` is `(h - 1 / (2
    beta))^2` (arXiv 2310.12036).
    """

    def objective(logp_T: Tensor, batch: Batch) -> tuple[Tensor, Metrics]:
        chosen, rejected, ref_chosen, ref_rejected, margin = _pairs(logp_T, batch, normalise, reference=True)
        h = (chosen - ref_chosen) - (rejected - ref_rejected)
        loss = (h - 0.5 / beta).square() if form == "ipo" else -F.logsigmoid(beta * h - margin)
        return loss.sum(), {
            "preferred": (h > 0).float().sum(),
            "reward_margin": beta * h.sum(),
            "reward_chosen": beta * (chosen - ref_chosen).sum(),
        }

    return objective


def orpo(weight: float = 0.1) -> Objective:
    """Odds-ratio preference optimisation, without a reference (arXiv 2403.07691).

    `-pi_c + weight * -log sigmoid(log odds_c - log odds_j)`, log-probabilities per token, `odds = p / (1 -
    p)`.
    """

    def objective(logp_T: Tensor, batch: Batch) -> tuple[Tensor, Metrics]:
        chosen, rejected, *_ = _pairs(logp_T, batch, normalise=True, reference=False)
        odds = (chosen - rejected) - (_log_one_minus(chosen) - _log_one_minus(rejected))
        loss = -chosen - weight * F.logsigmoid(odds)
        return loss.sum(), {"preferred": (odds > 0).float().sum(), "chosen_loss": -chosen.sum()}

    return objective


def _log_one_minus(logp: Tensor) -> Tensor:
    """`log(1 - exp(logp))`, finite at 0."""
    return torch.log(-torch.expm1(logp.clamp(max=-1e-6)))


class KTO(Callback):
    """Kahneman-Tversky optimisation from single labels (arXiv 2402.01306): an objective, and a callback of
    its run.

    With h = pi - r: `1 - sigmoid(beta (h - z))` for a wanted continuation, `1 - sigmoid(beta (z - h))` for an
    unwanted one. The baseline z is the mean of h over continuations of other prompts, not below 0. The paper
    takes it from the micro-batch; here it is that of the whole step before (0 at first, where the model is
    the reference), so that accumulation cannot change a step.
    """

    def __init__(self, beta: float = 0.1, wanted_weight: float = 1.0, unwanted_weight: float = 1.0) -> None:
        self.beta = beta
        self.weights = (wanted_weight, unwanted_weight)
        self.baseline = 0.0
        self._seen = torch.zeros(2, dtype=torch.float64)  # sum of h over strangers, their number

    def __call__(self, logp_T: Tensor, batch: Batch) -> tuple[Tensor, Metrics]:
        """The sum over the labels of a micro-batch, and metrics."""
        own, strange, ref_own, ref_strange, _ = _pairs(logp_T, batch, normalise=False, reference=True)
        wanted = torch.tensor([mark.wanted for _, mark in batch.judged], device=logp_T.device)
        h, other = own - ref_own, (strange - ref_strange).detach()
        self._seen += torch.tensor([float(other.sum()), len(other)], dtype=torch.float64)
        weight = torch.where(wanted, *self.weights)
        loss = weight * (1 - torch.sigmoid(self.beta * torch.where(wanted, 1.0, -1.0) * (h - self.baseline)))
        return loss.sum(), {
            "reward_wanted": self.beta * (h * wanted).sum(),
            "reward_unwanted": self.beta * (h * ~wanted).sum(),
            "baseline": torch.full_like(loss, self.baseline).sum(),
        }

    def after_step(self, trainer: Trainer) -> None:
        all_reduce_sum([self._seen])
        self.baseline = max(0.0, float(self._seen[0] / self._seen[1].clamp_min(1)))
        self._seen.zero_()

    def state_dict(self) -> dict[str, Any]:
        return {"baseline": self.baseline}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.baseline = float(state["baseline"])


@torch.no_grad()
def with_reference(model: Transformer, rows: Sequence[Row], device: torch.device | str) -> list[Row]:
    """The rows with `Judged.reference` filled in: log-probabilities under `model` as it stands, adapter
    included.
    """
    training = model.training
    model.eval()
    result = []
    for row in rows:
        batch = collate([row], device)
        h_TD = model(batch.ids_T, batch.context)
        sums = segment_sums(token_logprobs(h_TD, model.head_weight, batch.targets_T), batch)[0].tolist()
        marks = [replace(mark, reference=tuple(sums[at : at + mark.segments])) for at, mark in batch.judged]
        result.append(replace(row, judged=tuple(marks)))
    model.train(training)
    return result
