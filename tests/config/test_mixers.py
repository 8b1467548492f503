"""What a mixer of states keeps for its backward pass is what the plan of memory counts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from coterie.config.mixers import DeltaNetConfig, Mamba2Config, ShortConvConfig, StateMixer
from coterie.nn.forward_context import ForwardContext
from coterie.nn.gated_delta import GatedDeltaNet
from coterie.nn.mamba2 import Mamba2
from coterie.nn.short_conv import ShortConv

TOKENS, WIDTH = 128, 32


def delta(key_heads: int, heads: int, key: int, value: int, kernel: int) -> DeltaNetConfig:
    sizes = {"num_key_heads": key_heads, "num_value_heads": heads, "key_dim": key, "value_dim": value}
    return DeltaNetConfig(**sizes, kernel=kernel)


def mamba(heads: int, size: int, state: int, groups: int, kernel: int) -> Mamba2Config:
    return Mamba2Config(num_heads=heads, head_dim=size, state=state, groups=groups, kernel=kernel)


def kept(layer: nn.Module) -> float:
    """Numbers per token that autograd keeps of a layer, without its parameters and its input."""
    x_TD = torch.randn(TOKENS, WIDTH, requires_grad=True)
    others = {tensor.untyped_storage().data_ptr() for tensor in (x_TD, *layer.parameters())}
    found: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes() // 4
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        held = layer(x_TD, ForwardContext.packed([TOKENS]), None, 0)
    assert held.requires_grad  # and the graph is alive, so that no storage was reused
    return sum(size for place, size in found.items() if place not in others) / TOKENS


@pytest.mark.parametrize(
    "mixer",
    [
        *(delta(2, 4, 16, 16, 3), delta(4, 8, 32, 64, 4), delta(8, 8, 128, 128, 4), delta(2, 8, 128, 128, 4)),
        *(mamba(8, 8, 8, 2, 3), mamba(16, 32, 64, 2, 4), mamba(8, 64, 128, 1, 4), mamba(32, 64, 128, 1, 4)),
        *(ShortConvConfig(channels=64, kernel=kernel) for kernel in (3, 5)),
    ],
    ids=str,
)
def test_the_estimate_is_within_its_error(mixer: StateMixer) -> None:
    layer: nn.Module
    if isinstance(mixer, ShortConvConfig):
        layer = ShortConv(WIDTH, mixer)
    else:
        layer = (
            GatedDeltaNet(WIDTH, mixer, 1e-5)
            if isinstance(mixer, DeltaNetConfig)
            else Mamba2(WIDTH, mixer, 1e-5)
        )
    for parameter in layer.parameters():
        parameter.data.normal_(0, 0.1)
    assert mixer.training_values == pytest.approx(kept(layer), rel=0.08)
