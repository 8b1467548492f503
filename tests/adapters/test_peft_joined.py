"""Factors of matrices that are one tensor on disk: joined exactly, taken apart as they were."""

from __future__ import annotations

import pytest
import torch

from coterie.adapters.attach import Factors
from coterie.adapters.peft_joined import join_factors, join_full, split_factors, split_full
from coterie.adapters.peft_names import Names
from coterie.config import CheckpointError, ConfigError
from coterie.families import config_from_hf
from coterie.nn.transformer import Transformer
from tests.families.hf import tiny

PATHS = {
    "phi3": ("model.layers.0.self_attn.qkv_proj", "qkv"),
    "qwen3_5_text": ("model.layers.1.self_attn.q_proj", ("q", "gate")),
    "qwen3_next": ("model.layers.0.linear_attn.in_proj_qkvz", ("qkv", "z")),
}


def names(family: str) -> tuple[Names, Transformer]:
    config = config_from_hf(tiny(family).config.to_dict())
    return Names(config), Transformer(config)


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("family", PATHS)
def test_joined_factors_change_the_tensor_as_each_does_and_come_back(family: str, dora: bool) -> None:
    known, model = names(family)
    path, parts = PATHS[family]
    layer = path.split(".")[2]
    own = dict(model.named_parameters())
    factors = {}
    for rank, part in enumerate(parts, 2):
        name = f"blocks.{layer}.attention.{part}"
        weight = own[f"{name}.weight"]
        a, b = torch.randn(rank, weight.shape[1]), torch.randn(weight.shape[0], rank)
        factors[name] = Factors(a, b, 3.0 * rank - 1, torch.rand(weight.shape[0]) if dora else None)
    joined, columns = join_factors(known, factors)
    ((_, whole),) = joined.items()
    assert whole.rank == sum(factor.rank for factor in factors.values())
    change = whole.alpha / whole.rank * whole.b @ whole.a
    for slot in known.joined[path]:
        one = factors[slot.name.removesuffix(".weight")]
        expected = slot.view(one.alpha / one.rank * one.b @ one.a)
        torch.testing.assert_close(slot.part(change), expected, rtol=1e-5, atol=1e-5)
    back = split_factors(known, path, whole, columns)
    assert back.keys() == factors.keys()
    for name, one in factors.items():
        again = back[name]
        assert torch.equal(again.a, one.a) and again.rank == one.rank
        torch.testing.assert_close(again.alpha / again.rank * again.b, one.alpha / one.rank * one.b)
        assert not dora or torch.equal(again.magnitude, one.magnitude)
    alone = dict(list(factors.items())[:1])
    if dora:
        with pytest.raises(ConfigError, match="DoRA is on a part"):
            join_factors(known, alone)
        return
    whole, columns = join_factors(known, alone)
    assert split_factors(known, path, *whole.values(), columns).keys() == alone.keys()


@pytest.mark.parametrize("family", PATHS)
def test_weights_trained_in_full_are_one_tensor_and_come_back(family: str) -> None:
    known, model = names(family)
    full = {name: p.detach() for name, p in model.named_parameters() if ".attention." in name}
    whole = join_full(known, full)
    key = f"{PATHS[family][0]}.weight"
    assert key in whole and len(whole) < len(full)
    back = split_full(known, key, whole[key], "here")
    assert back and all(torch.equal(tensor, full[name]) for name, tensor in back.items())
    del full[next(iter(back))]
    with pytest.raises(ConfigError, match="trained in part"):
        join_full(known, full)
    with pytest.raises(CheckpointError, match="has shape"):
        split_full(known, key, whole[key][:-1], "here")
