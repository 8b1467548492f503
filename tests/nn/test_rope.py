"""YaRN and the others by hand, and gradients of rotations that also stretch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from coterie.config import ConfigError, RopeConfig, RopeScaling
from coterie.nn.forward_context import ForwardContext
from coterie.nn.rope import inverse_frequencies, rotate, rotation_gain
from tests.arithmetic import approx, assert_close


def yarn(**more) -> RopeScaling:
    return RopeScaling(kind="yarn", **({"factor": 32.0, "original_max_positions": 4096} | more))


def test_yarn_gains_of_published_models() -> None:
    assert rotation_gain(yarn()) == pytest.approx(1.3465736)  # gpt-oss
    assert rotation_gain(yarn(factor=40, mscale=1.0, mscale_all_dim=1.0)) == 1.0  # DeepSeek-V3
    assert rotation_gain(yarn(mscale=1.0, mscale_all_dim=1.0, attention_factor=1.7)) == 1.7
    assert rotation_gain(yarn(factor=1.0)) == 1.0
    assert rotation_gain(RopeScaling(kind="llama3", factor=8)) == 1.0


def test_yarn_ramp_by_hand() -> None:
    # gpt-oss, 64 dimensions, theta 150000: c(32) = 64 ln(4096 / 64 pi) / (2 ln 150000) = 8.09, c(1) = 17.40
    plain = inverse_frequencies(RopeConfig(theta=150000.0), 64)
    exact = inverse_frequencies(RopeConfig(theta=150000.0, scaling=yarn(truncate=False)), 64) / plain
    rounded = inverse_frequencies(RopeConfig(theta=150000.0, scaling=yarn()), 64) / plain
    assert torch.equal(exact[:9], torch.ones(9)) and exact[18:].tolist() == approx([1 / 32] * 14, terms=1)
    assert exact[12].item() == pytest.approx(1 - (1 - 1 / 32) * (12 - 8.0928) / (17.3980 - 8.0928), abs=1e-4)
    assert rounded[12].item() == approx(1 - (1 - 1 / 32) * (12 - 8) / (18 - 8), terms=2, size=1.0)


@given(st.sampled_from(["half", "pairs"]), st.sampled_from([4, 8]), st.integers(0, 50))
def test_gradient_of_a_stretched_rotation(style: str, width: int, position: int) -> None:
    config = RopeConfig(
        theta=50.0, style=style, scaling=yarn(original_max_positions=16, attention_factor=1.6)
    )
    context = ForwardContext.packed([2], [position])
    x, gradient = torch.randn(2, 3, width, requires_grad=True), torch.randn(2, 3, width)
    (actual,) = torch.autograd.grad(rotate(x, context, config), x, gradient)
    # The rotation is linear in x: <gradient, R e_i> column by column.
    for index in range(width):
        unit = torch.zeros(2, 3, width)
        unit[..., index] = 1.0
        expected = (gradient * rotate(unit, context, config)).sum(-1)
        assert_close(actual[..., index], expected, terms=width, depth=2, size=1.0)


def test_yarn_settings_on_another_kind_are_refused() -> None:
    with pytest.raises(ConfigError, match="'truncate' belongs to kind 'yarn', not to 'linear'"):
        RopeScaling.from_dict({"kind": "linear", "factor": 2.0, "truncate": False})
