"""What a step computes, by hand on a model of known size."""

from __future__ import annotations

import pytest

from coterie.families import config_from_hf
from coterie.plan.counts import flops_per_token
from coterie.reinforce.compute import forward_flops, step_flops
from tests.families.hf import _BASE, CONFIGS


@pytest.mark.parametrize("family", ["llama", "qwen3_moe"])
def test_sequences_add_up(family: str) -> None:
    config = config_from_hf(_BASE | CONFIGS[family])
    one, two = (length * flops_per_token(config, length) for length in (5, 9))
    assert forward_flops(config, [5, 9, 5]) == pytest.approx(2 * one + two)
    assert forward_flops(config, []) == 0
    assert step_flops(config, [5, 9], [9]) == pytest.approx((one + two, 3 * two))
    assert step_flops(config, [5, 9], [9], reads=1) == pytest.approx((one + two, 4 * two))
