"""An operation gives its result layer by layer, and that is the model which it gives as a whole."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator

import pytest
import torch

from coterie.config import ConfigError
from coterie.families import config_to_hf, family
from coterie.nn.forward_context import ForwardContext
from coterie.nn.moe import MoE
from coterie.nn.recording import Recorder
from coterie.nn.transformer import Transformer
from coterie.surgery.common import Layer, LayerwiseResult, finished, watch
from coterie.surgery.densify import densifying
from coterie.surgery.grow import adding_experts, swapping
from coterie.surgery.shrink import expert_merging, pruning
from coterie.surgery.upcycle import upcycling
from tests.adapters.test_attach import built, logits
from tests.arithmetic import assert_close, model_sums
from tests.surgery.common import SEQUENCES, moe

MIXERS = ["qwen3_next", "qwen3_5_moe_text", "lfm2_moe", "granitemoehybrid"]
OPERATIONS: dict[str, tuple[str, Callable[[Transformer], LayerwiseResult]]] = {
    "upcycle": ("qwen3", lambda model: upcycling(model, 4, variation="noise")),
    "prune": ("deepseek_v3", lambda model: pruning(model, 0.5, "reap", SEQUENCES)),
    "merge": ("gpt_oss", lambda model: expert_merging(model, 0.5, SEQUENCES)),
    "densify": ("qwen3_moe", lambda model: densifying(model, SEQUENCES)),
    "add": ("deepseek_v3_half_full_query", lambda model: adding_experts(model, SEQUENCES)),
    "swap": ("qwen3_moe", lambda model: swapping(model, moe(built("qwen3_moe", seed=4), 2), 0, 3, 6)),
}


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layer_by_layer_is_the_whole(name: str, dtype: torch.dtype) -> None:
    source, operate = OPERATIONS[name]
    model = built(source).to(dtype)
    model.compute_dtype = torch.float32
    kept = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    whole, tensors = operate(model).in_memory(), operate(model).tensors()
    expected = dict(whole.named_parameters()) | dict(whole.named_buffers())
    for slot in family(whole.config.family).slots(whole.config):
        found = tensors(slot.name)
        assert found.dtype == expected[slot.name].dtype
        assert torch.equal(found, expected[slot.name]), slot.name
    theirs = {tensor.data_ptr() for tensor in [*model.parameters(), *model.buffers()] if tensor.numel()}
    assert not theirs & {p.data_ptr() for p in [*whole.parameters(), *whole.buffers()] if p.numel()}
    assert all(torch.equal(tensor, kept[key]) for key, tensor in model.state_dict().items())


def test_only_one_new_layer_is_in_memory() -> None:
    result = upcycling(built("qwen3"), 4)
    alive: list[weakref.ref[Layer]] = []

    def watched(layers: Iterator[Layer]) -> Iterator[Layer]:
        for layer in layers:
            alive.append(weakref.ref(layer))
            yield layer
            del layer
            gc.collect()
            assert all(reference() is None for reference in alive)

    result.layers = watched(result.layers)
    tensors = result.tensors()
    for layer in range(result.config.num_layers):
        assert torch.equal(tensors("embed.weight"), result.model.embed.weight)
        tensors(f"blocks.{layer}.ffn.experts.down.weight")
        tensors(f"blocks.{layer}.ffn.router.weight")
    with pytest.raises(AssertionError, match=r"blocks\.0\.ffn"):
        tensors("blocks.0.ffn.router.weight")


def test_what_a_layer_is_shown_is_what_it_reads_in_a_whole_pass() -> None:
    model = built("qwen3_moe")
    read: dict[int, list[torch.Tensor]] = {}
    hooks = [
        moe(model, layer).register_forward_hook(
            lambda _, given, __, layer=layer: read.setdefault(layer, []).append(given[0])  # type: ignore[misc]
        )
        for layer, _ in model.routers()
    ]
    shown = {
        layer: torch.cat([part.x_TD for part in seen])
        for layer, ffn, seen in watch(model, SEQUENCES)
        if isinstance(ffn, MoE)
    }
    for hook in hooks:
        hook.remove()
    assert shown.keys() == dict(model.routers()).keys()
    assert all(torch.equal(shown[layer], torch.cat(parts)) for layer, parts in read.items())
    assert all(not seen for _, _, seen in watch(model, None))
    with pytest.raises(ConfigError, match="no text to look at"):
        next(iter(watch(model, [[]])))


@pytest.mark.parametrize("name", MIXERS)
def test_models_with_a_state_take_every_operation(name: str) -> None:
    model = built(name)
    lengths = [SEQUENCES[0][:7], SEQUENCES[2][:23]]
    alone: dict[int, list[torch.Tensor]] = {}
    for sequence in lengths:
        recorder = Recorder(tensors=True)
        with torch.no_grad():
            model(torch.tensor(sequence), ForwardContext.packed([len(sequence)], recorder=recorder))
        for layer, x_TD in recorder.inputs.items():
            alone.setdefault(layer, []).append(x_TD)
    shown = {layer: seen for layer, _, seen in watch(model, lengths) if seen}
    assert shown.keys() == alone.keys() == dict(model.config.moe_layers()).keys()
    for layer, parts in alone.items():
        found, expected = torch.cat([part.x_TD for part in shown[layer]]), torch.cat(parts)
        assert_close(found, expected, *model_sums(model.config, len(lengths[1])))
    same_with_more = "more" if moe(model, 3).router.select_bias is not None else None
    before = {key: tensor for key, tensor in model.state_dict().items() if ".ffn." not in key}
    results = {
        "same": pruning(model, 1.0, "reap", lengths),
        "fewer": pruning(model, 0.5, "freq", lengths),
        "merged": expert_merging(model, 0.5, lengths),
        "more": adding_experts(model, lengths),
        "other": swapping(model, moe(built(name, seed=4), 3), 3, 1, 2),
    }
    for kind, result in results.items():
        made, num = result.in_memory(), moe(model, 3).config.router.num_experts
        assert len(moe(made, 3).router.weight) == {"fewer": 3, "merged": 3, "more": 7}.get(kind, num)
        assert all(torch.equal(made.state_dict()[key], tensor) for key, tensor in before.items()), kind
        if kind == "same":
            assert torch.equal(logits(made), logits(model))
        if kind == same_with_more:  # a router of another width may add up in another order
            assert_close(logits(made), logits(model), *model_sums(model.config, len(lengths[1])))
        config_to_hf(made.config)
    if name == "qwen3_next":
        with pytest.raises(ConfigError, match="no dense qwen3_next checkpoint can carry"):
            densifying(model, lengths)
        return
    dense = densifying(model, lengths)
    assert not dense.config.is_moe and logits(dense.in_memory()).isfinite().all()
    assert dense.details["exact_layers"] == []


def test_a_forgotten_weight_is_noticed() -> None:
    layer = moe(built("qwen3_moe"))
    with torch.no_grad():
        layer.router.weight[0, 0] = float("nan")
    with pytest.raises(AssertionError, match=r"left 'router\.weight' unwritten"):
        finished(layer)
