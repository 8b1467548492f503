"""Packed positions, and features inserted in place of embeddings."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from coterie.config import DataError
from coterie.infer.cache import SequenceCache
from coterie.nn.forward_context import ForwardContext, Inserts
from tests.arithmetic import assert_model_close
from tests.infer.models import tiny_model

IDS = torch.tensor([5, 9, 1, 33, 60, 2, 17, 8])
WHERE = torch.tensor([6, 1, 2])


def run(model, inserts, ids=IDS, lengths=(5, 3)):
    return model(ids, ForwardContext.packed(lengths, inserts=inserts))


def test_packed_positions_restart_in_each_segment():
    context = ForwardContext.packed([3, 2], starts=[0, 7])
    assert context.positions_T.tolist() == [0, 1, 2, 7, 8] and context.num_tokens == 5
    assert ForwardContext.packed([]).num_tokens == 0


@pytest.mark.parametrize("kind", ["dense", "moe", "chunked"])
def test_the_embeddings_inserted_as_features_change_nothing(kind):
    model = tiny_model(kind)
    placeholders = IDS.index_fill(0, WHERE, 0)
    inserts = Inserts(WHERE, model.embed.weight[IDS[WHERE]])
    with torch.no_grad():
        assert torch.equal(run(model, inserts, placeholders), run(model, None))
        nothing = Inserts(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 32))
        assert torch.equal(run(model, nothing), run(model, None))


def test_gradients_reach_the_features_and_not_the_embeddings_they_replace():
    model = tiny_model("moe")
    features = torch.randn(3, 32, requires_grad=True)
    run(model, Inserts(WHERE, features)).square().sum().backward()
    assert features.grad is not None and bool((features.grad.abs().sum(1) > 0).all())
    replaced, kept = IDS[WHERE], IDS[torch.tensor([0, 3, 4, 5, 7])]
    grad = model.embed.weight.grad
    assert not grad[replaced].any() and bool((grad[kept].abs().sum(1) > 0).all())


def test_features_in_a_bfloat16_model_are_cast():
    model = tiny_model("dense")
    model.compute_dtype = torch.bfloat16
    with torch.no_grad():
        assert run(model, Inserts(WHERE, torch.randn(3, 32))).dtype == torch.bfloat16


@pytest.mark.parametrize("kind", ["dense", "moe", "sliding", "chunked"])
def test_caches_keep_what_inserted_features_gave(kind):
    """Features in the second of three chunks; the last chunk attends to their keys."""
    model = tiny_model(kind)
    features = torch.randn(2, 32)
    places = torch.tensor([3, 5])
    with torch.no_grad():
        whole = run(model, Inserts(places, features), IDS, [8])
        cache, parts = SequenceCache(model.config), []
        for start, end in ((0, 2), (2, 6), (6, 8)):
            context = ForwardContext.packed([end - start], [start])
            if start == 2:
                context = replace(context, inserts=Inserts(places - start, features))
            parts.append(model(IDS[start:end], context, caches=[cache]))
    assert_model_close(model.config, torch.cat(parts), whole, len(IDS))


@pytest.mark.parametrize(
    ("places", "shape", "words"),
    [
        ([1, 2], (3, 32), r"inserts: \(2,\) places and \(3, 32\) features; give \(N,\) places and \(N, 32\)"),
        ([1, 2], (2, 31), r"\(2, 31\) features"),
        ([[1, 2]], (2, 32), r"\(1, 2\) places"),
        ([1, 8], (2, 32), "place 8 is outside the 8 tokens"),
        ([-1, 2], (2, 32), "place -1 is outside"),
    ],
)
def test_refusals_are_one_line(places, shape, words):
    with pytest.raises(DataError, match=words) as refused:
        run(tiny_model("dense"), Inserts(torch.tensor(places), torch.zeros(shape)))
    assert "\n" not in str(refused.value)
