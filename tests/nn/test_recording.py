"""The record of a forward pass against what hooks on its modules see."""

from __future__ import annotations

import torch

from coterie.nn.forward_context import ForwardContext
from coterie.nn.recording import Recorder
from coterie.nn.router import Routing
from tests.infer.models import tiny_model


def test_the_record_is_what_hooks_would_have_seen():
    model, ids = tiny_model("moe"), torch.randint(0, 61, (9,))
    routing, read, given = {}, {}, {}
    for layer, moe in model.moe_layers():
        moe.router.register_forward_hook(lambda _m, _i, out, layer=layer: routing.update({layer: out}))
        moe.register_forward_hook(
            lambda _m, inputs, out, layer=layer: read.update({layer: inputs[0]}) or given.update({layer: out})
        )
    recorder = Recorder(tensors=True)
    with torch.no_grad():
        model(ids, ForwardContext.packed([4, 5], recorder=recorder))
    assert list(recorder.routing) == list(routing) == [0, 1]
    for layer in routing:
        assert all(torch.equal(a, b) for a, b in zip(recorder.routing[layer], routing[layer], strict=True))
        assert recorder.inputs[layer] is read[layer] and recorder.outputs[layer] is given[layer]


def test_activations_are_kept_only_when_wanted_and_a_dense_model_leaves_nothing():
    for name, layers in (("moe", 2), ("dense", 0)):
        recorder = Recorder()
        with torch.no_grad():
            tiny_model(name)(torch.arange(6), ForwardContext.packed([6], recorder=recorder))
        assert len(recorder.routing) == layers and not recorder.inputs and not recorder.outputs


def test_the_experts_of_a_token_come_best_first_without_those_of_weight_zero():
    ids, weights = torch.tensor([[2, 0, 1], [0, 1, 2]]), torch.tensor([[0.2, 0.7, 0.0], [0.5, 0.3, 0.2]])
    recorder = Recorder()
    recorder.note(4, Routing(ids, weights, torch.zeros(2, 3)), *torch.zeros(3, 2, 1))
    ((layer, experts, kept),) = recorder.chosen(0)
    assert (layer, experts) == (4, [0, 2]) and torch.equal(torch.tensor(kept), torch.tensor([0.7, 0.2]))
