"""Sequences packed into passes of limited size, against one pass for each."""

from __future__ import annotations

import torch

from coterie.nn.packed import forward_packed, groups_of, layers_packed
from coterie.nn.recording import Recorder
from tests.infer.models import tiny_model


def test_groups_keep_the_order_and_the_limit():
    sequences = [[1] * n for n in (3, 2, 7, 1, 1)]
    assert [[len(s) for s in group] for group in groups_of(sequences, 5)] == [[3, 2], [7], [1, 1]]
    assert list(groups_of([], 5)) == []


def test_a_packed_pass_is_the_passes_one_by_one():
    model, sequences, recorder = tiny_model("moe"), [[1, 2, 3], [4, 5]], Recorder()
    with torch.no_grad():
        together = forward_packed(model, sequences, recorder)
        alone = torch.cat([forward_packed(model, [sequence]) for sequence in sequences])
    assert torch.allclose(together, alone, atol=1e-5)
    assert all(len(routing.ids_TK) == 5 for routing in recorder.routing.values())


def test_one_layer_after_the_other_is_the_whole_pass():
    model, sequences = tiny_model("moe"), [[1, 2, 3], [4, 5], [6, 7, 8, 9]]
    with torch.no_grad():
        for layer, passes in enumerate(layers_packed(model, sequences, limit=5)):
            assert len(passes) == 2
            for group, found in zip(groups_of(sequences, 5), passes, strict=True):
                recorder = Recorder(tensors=True)
                forward_packed(model, group, recorder)
                assert found.inputs.keys() <= {layer}  # no other layer is kept
                for part in ("inputs", "outputs"):
                    ours, theirs = getattr(found, part), getattr(recorder, part)
                    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
                assert layer not in recorder.inputs or layer in found.inputs
