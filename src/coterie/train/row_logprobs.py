"""The log-probabilities that a model gives the targets of one row, as a training step computes them."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from coterie.data.rows import Row
from coterie.nn.logprobs import token_logprobs
from coterie.nn.recording import Recorder
from coterie.nn.transformer import Transformer
from coterie.train.batch import collate


@torch.no_grad()
def row_logprobs(model: Transformer, row: Row, recorder: Recorder | None = None) -> Tensor:
    """(S,) float32 in nats, without dropout. `recorder`: is given the routing of every layer."""
    training = model.training
    model.eval()
    try:
        batch = collate([row], model.embed.weight.device)
        h_TD = model(batch.ids_T, replace(batch.context, recorder=recorder))
        return token_logprobs(h_TD, model.head_weight, batch.targets_T, cap=model.logit_cap)
    finally:
        model.train(training)
