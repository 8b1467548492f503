"""More experts: an added one does nothing at first, a swapped one comes from the other model."""

from __future__ import annotations

import pytest
import torch

from coterie.config import ConfigError
from coterie.surgery.grow import add_experts, swap_expert
from tests.adapters.test_attach import IDS, built, logits
from tests.arithmetic import assert_model_close
from tests.surgery.common import SEQUENCES, moe


@pytest.mark.parametrize("name", ["deepseek_v3_half_full_query", "gpt_oss", "gpt_oss_no_bias"])
def test_an_added_expert_does_nothing_where_the_router_has_a_bias(name: str) -> None:
    model = built(name)
    grown = add_experts(model, SEQUENCES, count=2, source=1)
    assert_model_close(model.config, logits(grown), logits(model), len(IDS))
    layer = max(layer for layer, _ in model.routers())
    ours, theirs = moe(grown, layer).experts, moe(model, layer).experts
    assert torch.equal(ours.gate_up.weight[-1], theirs.gate_up.weight[1]) and not ours.down.weight[-2:].any()


@pytest.mark.parametrize("name", ["qwen3_moe", "mixtral"])
def test_an_added_expert_does_nothing_on_the_tokens_it_was_made_with(name: str) -> None:
    model = built(name)
    with torch.no_grad():  # as in trained models: what routers read has a common direction
        for layer, router in model.routers():
            model.blocks[layer].ffn_norm.weight[0] = 8.0
            router.weight.mul_(0.5)
        model.embed.weight[:, 0] = 3.0
    grown = add_experts(model, SEQUENCES)
    assert_model_close(model.config, logits(grown), logits(model), len(IDS))


def test_a_swapped_expert_comes_from_the_other_model() -> None:
    model, other = built("qwen3_moe"), built("qwen3_moe", seed=4)
    swapped = swap_expert(model, other, 0, 3, 2, 6, with_router=True)
    for part in ("gate_up", "down"):
        ours, theirs = getattr(moe(swapped).experts, part).weight, getattr(moe(other, 2).experts, part).weight
        assert torch.equal(ours[3], theirs[6])
        assert torch.equal(ours[4], getattr(moe(model).experts, part).weight[4])
    assert torch.equal(moe(swapped).router.weight[3], moe(other, 2).router.weight[6])
    assert torch.equal(logits(swap_expert(model, model, 0, 3)), logits(model))
    with pytest.raises(ConfigError, match="cannot be exchanged"):
        swap_expert(model, built("gpt_oss"), 0, 3)
    with pytest.raises(ConfigError, match="no expert 8 in layer 0"):
        swap_expert(model, other, 0, 8)
