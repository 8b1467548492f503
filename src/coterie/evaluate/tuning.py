"""The measurements before and after tuning: probes, held-out examples, and texts not to be forgotten."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from coterie.adapters.trainable import Tuned
from coterie.data.heldout import HeldoutDocument
from coterie.data.rows import Row
from coterie.data.tuning_rows import TuneData
from coterie.evaluate.bits import DocumentScore, score_documents
from coterie.evaluate.stats import difference_intervals
from coterie.evaluate.tuning_samples import sample_prompts, sample_replies
from coterie.nn.logprobs import token_logprobs
from coterie.nn.transformer import Transformer
from coterie.proof.records import ProbeRecord, probe
from coterie.results.intervals import FEWEST, Few
from coterie.results.tuning import TuningChange
from coterie.train.batch import Batch, collate
from coterie.train.preference import right_preferences, side_masks

Device = torch.device | str


@dataclass(frozen=True)
class Measured:
    """One measurement of a model.

    `preferred`: the share of pairs that it ranks rightly (None without a reference). `replies`: to the
    prompts of `sample_prompts`.
    """

    probes: ProbeRecord
    examples: list[DocumentScore]
    retention: list[DocumentScore]
    preferred: float | None
    replies: list[str]


def measure(tuned: Tuned, data: TuneData, documents: Sequence[HeldoutDocument]) -> Measured:
    """Measure the model in evaluation mode; it is in its former mode afterwards."""
    model, device = tuned.model, tuned.model.embed.weight.device
    training = model.training
    model.eval()
    retention = score_retention(model, tuned.tokenizer.document_start[0], documents)
    preferred = held_out_metrics(model, data.held_out, device).get("held_out_preferred")
    examples = unit_scores(model, data.held_out, device, wanted=True)
    prompts = sample_prompts(data.held_out_examples, tuned.tokenizer, model.config.max_positions)
    replies = sample_replies(model, tuned.tokenizer, prompts)
    result = Measured(probe(model, tuned.tokenizer), examples, retention, preferred, replies)
    model.train(training)
    return result


def score_retention(
    model: Transformer, eos_id: int, documents: Sequence[HeldoutDocument]
) -> list[DocumentScore]:
    """Scores of the texts that a model must not forget; none without texts."""
    longest = min(1024, model.config.max_positions)
    return score_documents(model, documents, eos_id, longest) if documents else []


def change(before: Sequence[DocumentScore], after: Sequence[DocumentScore]) -> TuningChange:
    """Bits per byte (of examples: per token) before and after, and their difference with its interval.

    Of fewer than `FEWEST` texts no interval is given.
    """
    sums = [sum(s.nats for s in scores) / sum(s.num_bytes for s in scores) for scores in (before, after)]
    bits = [value / math.log(2) for value in sums]
    found = difference_intervals(after, before)
    if len(before) < FEWEST:
        few = Few(value=found.value, documents=len(before))
        return TuningChange(before=bits[0], after=bits[1], change=few)
    return TuningChange(before=bits[0], after=bits[1], change=found)


def unit_scores(
    model: Transformer, rows: Sequence[Row], device: Device, wanted: bool = False
) -> list[DocumentScore]:
    """Nats and learnt tokens of each segment of the rows, in their order.

    `wanted`: score only what is to become more likely: the chosen side of preferences, and the
    continuations with a positive label.
    """
    return [
        score for logp_T, batch in _scored(model, rows, device) for score in _segments(logp_T, batch, wanted)
    ]


def _segments(logp_T: Tensor, batch: Batch, wanted: bool) -> Iterator[DocumentScore]:
    weights_T = batch.weights_T
    if wanted and "pair" in batch.streams:
        weights_T = weights_T * side_masks(batch)[0]
        if "label" in batch.streams:
            weights_T = weights_T * (batch.streams["label"] > 0)
    lengths = batch.context.lengths
    for logp, weights in zip(logp_T.split(lengths), weights_T.split(lengths), strict=True):
        count = round(float(weights.sum()))
        if count:
            yield DocumentScore("examples", -float((logp * weights).sum()), count, count)


def held_out_metrics(model: Transformer, rows: Sequence[Row], device: Device) -> dict[str, float]:
    """`held_out_loss` (nats per learnt token), and with a reference `held_out_preferred`.

    `held_out_preferred`: the share of pairs that the model ranks rightly (`right_preferences`).
    """
    nats, learnt, right, pairs = 0.0, 0, 0, 0
    for logp_T, batch in _scored(model, rows, device):
        scores = list(_segments(logp_T, batch, wanted=False))
        nats, learnt = nats + sum(s.nats for s in scores), learnt + sum(s.num_tokens for s in scores)
        if "reference_logp" in batch.streams:
            found = right_preferences(logp_T, batch)
            right, pairs = right + found[0], pairs + found[1]
    metrics = {"held_out_loss": nats / max(1, learnt)}
    return metrics | {"held_out_preferred": right / pairs} if pairs else metrics


@torch.no_grad()
def _scored(model: Transformer, rows: Sequence[Row], device: Device) -> Iterator[tuple[Tensor, Batch]]:
    """(log-probabilities of the targets, micro-batch) of each row."""
    for row in rows:
        batch = collate([row], device)
        h_TD = model(batch.ids_T, batch.context)
        yield token_logprobs(h_TD, model.head_weight, batch.targets_T, cap=model.logit_cap), batch
