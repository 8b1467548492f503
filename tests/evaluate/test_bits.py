"""Bits per byte against a direct sum, and intervals that cover what they should."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from coterie.config import DataError
from coterie.data.heldout import HeldoutDocument
from coterie.evaluate.bits import DocumentScore, bits_per_byte, score_documents
from coterie.evaluate.routing.shares import routing_shares
from coterie.evaluate.stats import difference_intervals, score_intervals
from coterie.families import config_from_hf
from coterie.nn.forward_context import ForwardContext
from coterie.nn.transformer import Transformer
from coterie.report.words import winner
from coterie.results.intervals import Interval
from tests.cli.support import MODEL


def make() -> Transformer:
    model = Transformer(config_from_hf(MODEL | {"vocab_size": 60}))
    model.initialise(2)
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return model.eval()


def documents(num: int, seed: int = 0) -> list[HeldoutDocument]:
    random = np.random.default_rng(seed)
    return [
        HeldoutDocument(
            "ab"[i % 2], np.append(0, random.integers(1, 60, int(random.integers(1, 50)))), 10 + i
        )
        for i in range(num)
    ]


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
        assert score.nats == pytest.approx(nats, rel=1e-5)
        assert score.num_tokens == len(document.ids)
    assert bits_per_byte(scores) == pytest.approx(
        sum(s.nats for s in scores) / math.log(2) / sum(d.num_bytes for d in texts)
    )


def test_a_foreign_vocabulary_is_an_error() -> None:
    with pytest.raises(DataError, match="outside the model's vocabulary"):
        score_documents(make(), [HeldoutDocument("a", np.array([0, 60]), 1)], 0, 16)


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    random = np.random.default_rng(1)
    covered = 0
    for trial in range(60):
        scores = [DocumentScore("a", float(random.normal(10, 3)) * math.log(2), 10, 5) for _ in range(60)]
        interval = score_intervals(scores, seed=trial)
        covered += interval["low"] <= 1.0 <= interval["high"]
    assert 50 <= covered <= 60


def test_pairing_finds_a_small_steady_difference_in_large_noise() -> None:
    random = np.random.default_rng(3)
    base = [abs(float(random.normal(100, 60))) + 5 for _ in range(80)]
    first = [DocumentScore("a", value * 0.99, 50, 5) for value in base]
    second = [DocumentScore("a", value, 50, 5) for value in base]
    assert difference_intervals(first, second)["high"] < 0
    alone = [score_intervals(side) for side in (first, second)]
    assert alone[0]["high"] > alone[1]["low"], "unpaired intervals overlap: the pairing did the work"
    with pytest.raises(DataError, match="same documents"):
        difference_intervals(first, second[1:])


def test_routing_shares_count_the_choices() -> None:
    model, texts = make(), documents(6)
    shares = routing_shares(model, texts, row_length=16)
    assert shares.layers == [0, 1] and shares.slices == ["a", "b"] and shares.top_k == 2
    array = np.array(shares.share)
    assert array.shape == (2, 2, 4)
    np.testing.assert_allclose(array.sum(-1), 1.0)
    ids = torch.cat([torch.from_numpy(d.ids) for d in texts if d.slice == "b"])
    lengths = [min(16, len(d.ids) - at) for d in texts if d.slice == "b" for at in range(0, len(d.ids), 16)]
    seen = []
    model.routers()[0][1].register_forward_hook(lambda module, inputs, routing: seen.append(routing.ids_TK))
    with torch.no_grad():
        model(ids, ForwardContext.packed(lengths))
    counts = np.bincount(seen[0].flatten().numpy(), minlength=4)
    np.testing.assert_allclose(array[0, 1], counts / counts.sum())


def test_few_documents_never_make_a_winner() -> None:
    for num in (1, 7, 8):
        first = [DocumentScore("a", 9.0 + i, 50, 5) for i in range(num)]
        second = [DocumentScore("a", 10.0 + i, 50, 5) for i in range(num)]
        interval = Interval.from_dict(
            {k: v for k, v in difference_intervals(first, second).items() if k != "per_slice"}
        )
        assert interval.documents == num
        assert winner(interval) == ("moe" if num >= 8 else None)
