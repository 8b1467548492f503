"""The log-probabilities of one row: those of the batch it is in, in evaluation mode, with the mode kept."""

from __future__ import annotations

import numpy as np
import torch

from coterie.data.rows import Row
from coterie.nn.logprobs import token_logprobs
from coterie.nn.recording import Recorder
from coterie.train.batch import collate
from coterie.train.row_logprobs import row_logprobs
from tests.infer.models import tiny_model


def test_a_row_is_scored_as_in_a_batch() -> None:
    model = tiny_model("moe").train()
    generator = np.random.default_rng(0)
    ids = generator.integers(1, model.config.vocab_size, 13).astype(np.int32)
    row = Row(ids[:-1], ids[1:], np.ones(12, dtype=np.float32), (12,))
    recorder = Recorder()
    found = row_logprobs(model, row, recorder)
    batch = collate([row, row])
    with torch.no_grad():
        h_TD = model(batch.ids_T, batch.context)
        both = token_logprobs(h_TD, model.head_weight, batch.targets_T, cap=model.logit_cap)
    assert torch.allclose(found, both[:12], atol=1e-5) and not found.requires_grad
    assert model.training and all(len(r.ids_TK) == 12 for r in recorder.routing.values())
