"""Fewer experts: what is removed mattered least, and merged experts did similar things."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from coterie.config import ConfigError
from coterie.surgery.shrink import expert_scores, merge_experts, prune
from tests.adapters.test_attach import built, logits
from tests.arithmetic import approx, assert_close
from tests.surgery.common import SEQUENCES, moe


@pytest.mark.parametrize("name", ["qwen3_moe", "deepseek_v3", "llama4_scout", "gpt_oss"])
def test_pruning_nothing_changes_nothing_and_a_useless_expert_goes_first(name: str) -> None:
    model = built(name)
    same, kept = prune(model, 1.0, "reap", SEQUENCES)
    assert torch.equal(logits(same), logits(model)) and all(ids == sorted(ids) for ids in kept.values())
    useless = {layer: 1 for layer, _ in model.routers()}
    with torch.no_grad():
        for layer, _ in model.routers():
            for part in (moe(model, layer).experts.down.weight, moe(model, layer).experts.down.bias):
                if part is not None:
                    part[1] = 0
    share = 1 - (moe(model, max(useless)).config.router.num_groups) / len(
        moe(model, max(useless)).router.weight
    )
    pruned, kept = prune(model, share, "reap", SEQUENCES)
    assert all(1 not in ids for ids in kept.values())
    assert all(len(moe(pruned, layer).router.weight) == len(ids) for layer, ids in kept.items())
    layer = max(useless)
    assert torch.equal(
        moe(pruned, layer).experts.gate_up.weight, moe(model, layer).experts.gate_up.weight[kept[layer]]
    )


def test_reap_and_frequency_against_a_slow_reference() -> None:
    model = built("qwen3_moe")
    seen: list[tuple[torch.Tensor, Any]] = []
    hook = moe(model).register_forward_hook(lambda m, i, o: seen.append((i[0], m.router(i[0]))))
    scores = expert_scores(model, SEQUENCES)
    hook.remove()
    x_TD, routing = torch.cat([x for x, _ in seen]), [r for _, r in seen]
    ids, weights = (torch.cat([getattr(r, part) for r in routing]) for part in ("ids_TK", "weights_TK"))
    experts = moe(model).experts
    for expert in range(8):
        found = []
        for x, row, weight in zip(x_TD, ids, weights, strict=True):
            for chosen, g in zip(row.tolist(), weight.tolist(), strict=True):
                if chosen == expert:
                    gate, up = (experts.gate_up.weight[expert] @ x).chunk(2)
                    found.append(
                        g * float((experts.down.weight[expert] @ (gate * gate.sigmoid() * up)).norm())
                    )
        assert float(scores["freq"][0][expert]) == pytest.approx(len(found) / ids.numel())
        assert float(scores["reap"][0][expert]) == approx(sum(found) / len(found), terms=32, depth=2)


def test_merging_joins_experts_that_do_alike() -> None:
    model = built("qwen3_moe")
    with torch.no_grad():
        for layer, _ in model.routers():
            experts = moe(model, layer).experts
            experts.gate_up.weight[5] = experts.gate_up.weight[2]
            experts.down.weight[5] = experts.down.weight[2] * 1.001
    merged, clusters = merge_experts(model, 7 / 8, SEQUENCES)
    assert all([2, 5] in found and len(found) == 7 for found in clusters.values())
    at = clusters[0].index([2, 5])
    expected = moe(model).experts.gate_up.weight[2]
    # a mean of two, after their units were matched
    assert_close(moe(merged).experts.gate_up.weight[at], expected, terms=2, depth=2)
    freq = expert_scores(model, SEQUENCES)["freq"][0][[2, 5]]
    row = (moe(model).router.weight[[2, 5]] * (freq / freq.sum()).float()[:, None]).sum(0)
    assert_close(moe(merged).router.weight[at], row, terms=2, depth=2)
    same, _ = merge_experts(model, 1.0, SEQUENCES)
    assert torch.equal(logits(same), logits(model))


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="too few for the 3"):
        prune(built("qwen3_moe"), 0.25, "random")
    with pytest.raises(ConfigError, match="no text to look at"):
        prune(built("qwen3_moe"), 0.5, "reap")
    with pytest.raises(ConfigError, match="is dense"):
        prune(built("qwen3"), 0.5, "random")
    with pytest.raises(ConfigError, match="among groups"):
        merge_experts(built("deepseek_v3"), 0.5, SEQUENCES)
