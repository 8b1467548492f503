"""Densifying: exact where everything fits, and closer with more units."""

from __future__ import annotations

import pytest

from coterie.config import ConfigError
from coterie.surgery.densify import densify
from coterie.surgery.upcycle import upcycle
from tests.adapters.test_attach import built, logits
from tests.surgery.common import SEQUENCES


def test_densify_keeps_everything_when_every_expert_is_chosen_and_fits() -> None:
    """All experts chosen with constant weights is a dense layer; it must be found again exactly."""
    dense = built("qwen3")
    routed = upcycle(dense, num_experts=4, top_k=4, split=4)
    back = densify(routed, SEQUENCES)
    assert back.config == dense.config.model_copy(update={"extra": back.config.extra})
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
