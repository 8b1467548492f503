"""Densifying: copies give the dense weights back exactly; a fit is exact where everything fits, and closer
with more units."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from coterie.config import ConfigError
from coterie.nn.moe import FeedForward
from coterie.nn.transformer import Transformer
from coterie.surgery.densify import densify, densifying
from coterie.surgery.upcycle import upcycle
from tests.adapters.test_attach import built, logits
from tests.surgery.common import SEQUENCES, moe


def assert_same_weights(found: Transformer, expected: Transformer) -> None:
    theirs = dict(expected.named_parameters())
    assert found.config.num_layers == expected.config.num_layers
    for name, parameter in found.named_parameters():
        assert parameter.dtype == theirs[name].dtype and torch.equal(parameter, theirs[name]), name


def damaged(model: Transformer, layer: int = 0) -> Transformer:
    """One expert of one layer differs in one number."""
    with torch.no_grad():
        moe(model, layer).experts.down.weight[1, 0, 0] += 0.5
    return model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("name", "split"), [("qwen3", 1), ("qwen3", 2), ("llama", 4), ("qwen2", 2), ("hunyuan_v1_dense", 1)]
)
def test_copies_give_back_the_weights_that_they_were_made_of(
    name: str, split: int, dtype: torch.dtype
) -> None:
    dense = built(name).to(dtype)
    routed = upcycle(dense, num_experts=8, top_k=4, split=split)
    if split == 1:  # trained routers choose among equals
        with torch.no_grad():
            for layer, _ in routed.routers():
                moe(routed, layer).router.weight.normal_()
    result = densifying(routed, [])  # no text is needed
    back = result.in_memory()
    assert_same_weights(back, dense)
    assert back.config == dense.config.model_copy(update={"extra": back.config.extra})
    assert result.details == {"exact_layers": list(range(dense.config.num_layers)), "lost_share": {}}


def test_only_layers_of_copies_are_exact() -> None:
    dense = built("qwen3")
    result = densifying(damaged(upcycle(dense, num_experts=4, top_k=2)), SEQUENCES)
    back = result.in_memory()
    assert result.details["exact_layers"] == list(range(1, dense.config.num_layers))
    assert list(result.details["lost_share"]) == ["0"] and 0 < result.details["lost_share"]["0"] < 1
    before, after = dense.blocks[1].ffn, back.blocks[1].ffn
    assert isinstance(before, FeedForward) and isinstance(after, FeedForward)
    size = len(before.gate.weight)  # filled up to the width of the fitted layer
    assert torch.equal(after.gate.weight[:size], before.gate.weight) and not after.gate.weight[size:].any()
    assert torch.equal(after.down.weight[:, :size], before.down.weight)


@pytest.mark.parametrize(
    ("split", "change"),
    [
        (1, {"renormalize": False}),
        (1, {"scale": 2.0}),
        (2, {}),  # parts of a copy that a token may get alone
    ],
)
def test_copies_whose_weights_do_not_sum_to_one_are_not_taken_for_the_whole(
    split: int, change: dict[str, Any]
) -> None:
    routed = upcycle(built("qwen3"), num_experts=8, top_k=4, split=split)
    for layer, router in routed.routers():
        layer_config = moe(routed, layer).config
        moe(routed, layer).config = layer_config.model_copy(
            update={"router": layer_config.router.model_copy(update=change)}
        )
        with torch.no_grad():
            router.weight[1] *= 1.5
    assert densifying(routed, SEQUENCES).details["exact_layers"] == []


def test_a_shared_expert_that_differs_or_weighs_otherwise_is_not_a_copy() -> None:
    for name in ("gate", "shared"):
        routed = upcycle(built("qwen2"), num_experts=4, top_k=2)
        for layer, _ in routed.routers():
            with torch.no_grad():
                part = moe(routed, layer).shared_gate if name == "gate" else moe(routed, layer).shared.up
                part.weight[0, 0] += 0.5
        assert densifying(routed, SEQUENCES).details["exact_layers"] == []


def test_a_fit_keeps_everything_when_every_expert_is_chosen_and_fits() -> None:
    """All experts chosen with constant weights is a dense layer; the fit must find it again."""
    dense = built("qwen3")
    routed = upcycle(dense, num_experts=4, top_k=4, split=4)
    with torch.no_grad():
        for _, router in routed.routers():
            router.weight[0, 0] += 1e-7  # weights as good as constant, but no copies
    result = densifying(routed, SEQUENCES)
    back = result.in_memory()
    assert back.config == dense.config.model_copy(update={"extra": back.config.extra})
    assert result.details["exact_layers"] == []
    # The ridge pulls towards the very columns that are right, so little is lost.
    assert all(share < 1e-5 for share in result.details["lost_share"].values())
    # The solution of least squares: its error is rounding times the condition of the experts' outputs.
    assert (logits(back).log_softmax(-1) - logits(dense).log_softmax(-1)).abs().max() < 1e-3


@pytest.mark.parametrize("name", ["qwen3_moe", "mixtral"])
def test_densify_is_closer_with_more_units_and_than_chance(name: str) -> None:
    model = built(name)
    if name == "mixtral":
        back = densify(model, SEQUENCES)
        assert back.config.family == "mistral"  # its attention is sliding, which Llama's is not
        assert back.config.blocks[0].attention == model.config.blocks[0].attention
        return
    wanted = logits(model).log_softmax(-1)

    def far(width: int) -> float:
        return float((logits(densify(model, SEQUENCES, width)).log_softmax(-1) - wanted).abs().mean())

    random = float((logits(built("qwen3", seed=8)).log_softmax(-1) - wanted).abs().mean())
    assert far(192) < far(72) < random


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="inner units to choose from"):
        densify(built("qwen3_moe"), SEQUENCES, 10_000)
    with pytest.raises(ConfigError, match="clamped and biased"):
        densify(built("gpt_oss"), SEQUENCES)
