"""Surgery: what must stay the same function does, and what is taken away is what mattered least."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from coterie.config import ConfigError
from coterie.nn.moe import MoE
from coterie.nn.transformer import Transformer
from coterie.surgery.densify import densify
from coterie.surgery.grow import add_experts, swap_expert
from coterie.surgery.shrink import expert_scores, mean_outputs, merge_experts, prune
from coterie.surgery.upcycle import upcycle
from tests.adapters.test_attach import IDS, built, logits
from tests.arithmetic import model_tolerance
from tests.families.hf import VOCAB

SEQUENCES = torch.randint(0, VOCAB, (6, 50), generator=torch.Generator().manual_seed(9)).tolist()


def moe(model: Transformer, layer: int = 0) -> MoE:
    ffn = model.blocks[layer].ffn
    assert isinstance(ffn, MoE)
    return ffn


@pytest.mark.parametrize(
    ("name", "split"), [("qwen3", 1), ("qwen3", 2), ("qwen3", 4), ("llama", 1), ("llama", 2)]
)
def test_upcycling_by_copy_is_the_dense_model(name: str, split: int) -> None:
    dense = built(name)
    routed = upcycle(dense, num_experts=8, top_k=4, split=split)
    assert routed.config.is_moe and routed.config.family == {"qwen3": "qwen3_moe", "llama": "mixtral"}[name]
    assert moe(routed).config.expert_width == 48 // split
    found, expected = (logits(model).log_softmax(-1) for model in (routed, dense))
    bound = model_tolerance(dense.config, expected, tokens=len(IDS))
    torch.testing.assert_close(found, expected, atol=bound, rtol=0)
    rows = moe(routed).router.weight
    assert torch.equal(rows[0], rows[split - 1]) and not torch.equal(rows[0], rows[split % 8])


def test_noise_and_drop_make_experts_differ_by_what_was_asked() -> None:
    dense = built("qwen3")
    noisy, dropped = (
        upcycle(dense, variation="noise", amount=0.01),
        upcycle(dense, variation="drop", amount=0.25),
    )
    original = dense.blocks[0].ffn.down.weight
    assert not torch.equal(moe(noisy).experts.down.weight[0], moe(noisy).experts.down.weight[1])
    spread = float((moe(noisy).experts.down.weight[0] - original).detach().std())
    assert spread == pytest.approx(0.01 * float(original.detach().std()), rel=0.1)
    kept = [(moe(dropped).experts.down.weight[e] == original).all(0) for e in range(8)]
    assert all(int(units.sum()) == 36 for units in kept) and not torch.equal(kept[0], kept[1])
    for part in (slice(0, 48), slice(48, 96)):  # the same units in gate, up and down
        gate = moe(dropped).experts.gate_up.weight[0, part]
        same = (gate == (dense.blocks[0].ffn.gate if part.start == 0 else dense.blocks[0].ffn.up).weight).all(
            1
        )
        assert torch.equal(same, kept[0])
    assert 0 < (logits(noisy) - logits(dense)).abs().max() < (logits(dropped) - logits(dense)).abs().max()


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
        assert float(scores["reap"][0][expert]) == pytest.approx(sum(found) / len(found), rel=1e-4)


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
    torch.testing.assert_close(moe(merged).experts.gate_up.weight[at], expected, rtol=1e-5, atol=1e-6)
    freq = expert_scores(model, SEQUENCES)["freq"][0][[2, 5]]
    row = (moe(model).router.weight[[2, 5]] * (freq / freq.sum()).float()[:, None]).sum(0)
    torch.testing.assert_close(moe(merged).router.weight[at], row, rtol=1e-4, atol=1e-5)
    same, _ = merge_experts(model, 1.0, SEQUENCES)
    assert torch.equal(logits(same), logits(model))
    assert mean_outputs(model, SEQUENCES)[0].shape == (8, 32)


@pytest.mark.parametrize("name", ["deepseek_v3_half_full_query", "gpt_oss", "gpt_oss_no_bias"])
def test_an_added_expert_does_nothing_where_the_router_has_a_bias(name: str) -> None:
    model = built(name)
    grown = add_experts(model, SEQUENCES, count=2, source=1)
    bound = model_tolerance(model.config, logits(model), tokens=len(IDS))
    torch.testing.assert_close(logits(grown), logits(model), atol=bound, rtol=0)
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
    assert (logits(grown) - logits(model)).abs().max() < 1e-4


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


def test_densify_keeps_everything_when_every_expert_is_chosen_and_fits() -> None:
    """All experts chosen with constant weights is a dense layer; it must be found again exactly."""
    dense = built("qwen3")
    routed = upcycle(dense, num_experts=4, top_k=4, split=4)
    back = densify(routed, SEQUENCES)
    assert back.config == dense.config.model_copy(update={"extra": back.config.extra})
    assert (logits(back).log_softmax(-1) - logits(dense).log_softmax(-1)).abs().max() < 1e-3


@pytest.mark.parametrize("name", ["qwen3_moe", "mixtral"])
def test_densify_is_closer_with_more_units_and_than_chance(name: str) -> None:
    model = built(name)
    if name == "mixtral":
        with pytest.raises(ConfigError, match="no dense llama checkpoint can carry"):
            densify(model, SEQUENCES)  # its attention is sliding
        return
    wanted = logits(model).log_softmax(-1)

    def far(width: int) -> float:
        return float((logits(densify(model, SEQUENCES, width)).log_softmax(-1) - wanted).abs().mean())

    random = float((logits(built("qwen3", seed=8)).log_softmax(-1) - wanted).abs().mean())
    assert far(192) < far(72) < random


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="mixture of experts already"):
        upcycle(built("mixtral"))
    with pytest.raises(ConfigError, match="must be multiples of split"):
        upcycle(built("qwen3"), num_experts=8, top_k=2, split=4)
    with pytest.raises(ConfigError, match="has biases"):
        upcycle(built("llama_tied_bias"))
    with pytest.raises(ConfigError, match="too few for the 3"):
        prune(built("qwen3_moe"), 0.25, "random")
    with pytest.raises(ConfigError, match="no text to look at"):
        prune(built("qwen3_moe"), 0.5, "reap")
    with pytest.raises(ConfigError, match="is dense"):
        prune(built("qwen3"), 0.5, "random")
    with pytest.raises(ConfigError, match="among groups"):
        merge_experts(built("deepseek_v3"), 0.5, SEQUENCES)
    with pytest.raises(ConfigError, match="inner units to choose from"):
        densify(built("qwen3_moe"), SEQUENCES, 10_000)
    with pytest.raises(ConfigError, match="clamped and biased"):
        densify(built("gpt_oss"), SEQUENCES)
