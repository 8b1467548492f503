"""Learning-rate factors by hand and as properties."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coterie.config.run import ScheduleConfig
from coterie.train import multiplier


def curve(steps, **options):
    config = ScheduleConfig(**options)
    return [multiplier(step, steps, config) for step in range(steps)]


def test_warmup_stable_decay_by_hand():
    got = curve(10, kind="wsd", warmup_steps=2, decay_fraction=0.4, final_ratio=0.2)
    assert got == pytest.approx([0.5, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2])
    got = curve(10, kind="wsd", warmup_fraction=0.0, decay_fraction=0.4)
    assert got == pytest.approx([1, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2])  # the next step would have been 0


def test_cosine_by_hand():
    got = curve(5, kind="cosine", warmup_steps=1, final_ratio=0.1)
    expected = [1.0] + [0.1 + 0.45 * (1 + math.cos(math.pi * k / 4)) for k in (1, 2, 3, 4)]
    assert got == pytest.approx(expected)


def test_constant_and_past_the_end():
    assert curve(4, kind="constant", warmup_steps=2) == [0.5, 1, 1, 1]
    config = ScheduleConfig(kind="wsd", final_ratio=0.25)
    assert multiplier(10_000, 100, config) == multiplier(99, 100, config) == 0.25


@given(
    st.sampled_from(["wsd", "cosine", "constant"]),
    st.integers(1, 300),
    st.floats(0, 0.5),
    st.floats(0, 0.5),
    st.floats(0, 1),
)
def test_shape(kind, steps, warmup, decay, final):
    got = curve(steps, kind=kind, warmup_fraction=warmup, decay_fraction=decay, final_ratio=final)
    assert all(0 < value <= 1 for value in got)
    top = min(round(warmup * steps), steps)
    assert got[:top] == sorted(got[:top])
    assert all(a >= b - 1e-12 for a, b in zip(got[top:], got[top + 1 :], strict=False))
    if kind == "wsd":
        assert got[top : steps - round(decay * steps)].count(1.0) == max(
            0, steps - round(decay * steps) - top
        )
