"""Bits per byte against a direct sum, and intervals that cover what they should."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from coterie.config import DataError
from coterie.data.heldout import HeldoutDocument
from coterie.evaluate.bits import bits_per_byte, score_documents
from coterie.nn.forward_context import ForwardContext
from tests.arithmetic import approx, mean_sums
from tests.evaluate.support import documents, make


def test_every_token_is_scored_once_in_pieces() -> None:
    model, texts = make(), documents(9)
    scores = score_documents(model, texts, end_id=0, row_length=16)
    for document, score in zip(texts, scores, strict=True):
        ids = torch.from_numpy(np.append(document.ids, 0))
        nats = 0.0
        for at in range(0, len(document.ids), 16):
            piece = ids[at : at + 17]
            with torch.no_grad():
                logp = model.logits(model(piece[:-1], ForwardContext.packed([len(piece) - 1]))).log_softmax(
                    -1
                )
            nats -= float(logp.gather(-1, piece[1:, None]).sum())
        assert score.nats == approx(nats, *mean_sums(model.config))
        assert score.num_tokens == len(document.ids)
    assert bits_per_byte(scores) == pytest.approx(
        sum(s.nats for s in scores) / math.log(2) / sum(d.num_bytes for d in texts)
    )


def test_a_foreign_vocabulary_is_an_error() -> None:
    with pytest.raises(DataError, match="outside the model's vocabulary"):
        score_documents(make(), [HeldoutDocument("a", np.array([0, 60]), 1)], 0, 16)
