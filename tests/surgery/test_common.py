"""An operation gives its result layer by layer, and that is the model which it gives as a whole."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator

import pytest
import torch

from coterie.config import ConfigError
from coterie.families import family
from coterie.nn.moe import MoE
from coterie.nn.transformer import Transformer
from coterie.surgery.common import Layer, LayerwiseResult, finished, watch
from coterie.surgery.densify import densifying
from coterie.surgery.grow import adding_experts, swapping
from coterie.surgery.shrink import expert_merging, pruning
from coterie.surgery.upcycle import upcycling
from tests.adapters.test_attach import built
from tests.surgery.common import SEQUENCES, moe

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


def test_a_forgotten_weight_is_noticed() -> None:
    layer = moe(built("qwen3_moe"))
    with torch.no_grad():
        layer.router.weight[0, 0] = float("nan")
    with pytest.raises(AssertionError, match=r"left 'router\.weight' unwritten"):
        finished(layer)
