"""Collapse is found where a run collapses, and not where it learns or merely scatters."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from coterie.reinforce.collapse import _KEPT, COLLAPSED, CollapseGuard, alarm

STEADY = {"level_reward": 0.4, "any_right": 0.7, "entropy": 0.3, "truncated": 0.05, "mismatch": 1e-6}


def seen(steps: int, **changed: list[float]) -> dict[str, list[float]]:
    """Steady measurements with some replaced."""
    return {name: changed.get(name, [STEADY.get(name, 1.0)] * steps) for name in _KEPT}


def ramp(first: float, last: float, steps: int) -> list[float]:
    return np.linspace(first, last, steps).tolist()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"level_reward": [0.5] * 10 + [0.2] * 10}, "the reward fell from 0.50 to 0.20"),
        ({"any_right": [0.9] * 10 + [0.5] * 10, "entropy": ramp(0.3, 0.05, 20)}, "gives up right ways"),
        ({"entropy": ramp(0.3, 0.9, 20)}, "entropy rose from"),
        ({"truncated": [0.05] * 10 + [0.8] * 10}, "80% of replies do not end within max_tokens, at first 5%"),
        ({"effective_share": [1.0] * 18 + [0.2] * 2}, "only 20% of a step's tokens"),
        ({"mismatch": [1e-6] * 19 + [0.3]}, "0.3 nats apart in float32"),
    ],
)
def test_each_way_of_collapsing_is_named(changed: dict[str, list[float]], words: str) -> None:
    found = alarm(seen(20, **changed), float32=True)
    assert found is not None and words in found


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"level_reward": ramp(0.2, 0.9, 20), "entropy": ramp(0.5, 0.004, 20)},  # learnt, and sure of it
        {"any_right": [0.9] * 10 + [0.5] * 10, "entropy": ramp(0.1, 0.15, 20)},  # harder problems
        {"truncated": ramp(0.3, 0.6, 20)},  # longer, from replies that were long
        {"entropy": ramp(0.01, 0.05, 20)},
        {"effective_share": [1.0] * 19 + [0.2]},
    ],
)
def test_other_changes_raise_no_alarm(changed: dict[str, list[float]]) -> None:
    assert alarm(seen(20, **changed), float32=True) is None
    assert alarm(seen(20, mismatch=[0.3] * 20)) is None, "bfloat16 may differ"


def test_scatter_raises_no_alarm() -> None:
    """Runs of 100 steps that neither learn nor collapse: 8 prompts of 8 replies on 5 levels, 0.4 right."""
    rng = np.random.default_rng(0)
    raised = 0
    for _ in range(60):
        share, means = rng.binomial(64, 0.4, 100) / 64, [0.4]
        for value in share:
            means.append(0.8 * means[-1] + 0.2 * value)
        any_right = rng.binomial(8, 0.7, 100) / 8
        noise = 0.3 * np.exp(0.1 * rng.standard_normal(100))
        for steps in range(10, 101, 5):
            values = {"any_right": any_right, "entropy": noise, "level_reward": np.array(means)}
            found = alarm(seen(steps, **{name: v[:steps].tolist() for name, v in values.items()}))
            if found is not None:
                raised += 1
                break
    assert raised <= 1


class Run:
    """What the guard asks of a trainer."""

    def __init__(self) -> None:
        self.stopped: str | None = None

    def stop(self, reason: str) -> None:
        self.stopped = reason


def records(values: list[float]) -> list[dict[str, Any]]:
    return [{"kind": "rollout", "step": at} | STEADY | {"level_reward": v} for at, v in enumerate(values)]


@pytest.mark.parametrize("action", ["stop", "warn"])
def test_the_guard_stops_or_warns_and_remembers(action: Any) -> None:
    guard, run = CollapseGuard(action, True), Run()
    values = [0.6] * 12 + [0.1] * 12
    for at, record in enumerate(records(values)):
        if at == 13:  # a resumed run
            state, guard = guard.state_dict(), CollapseGuard(action, True)
            guard.load_state_dict(state)
        guard.on_record(run, record)  # type: ignore[arg-type]
        guard.on_record(run, {"kind": "train", "step": at})  # type: ignore[arg-type]
    assert guard.alarms and guard.alarms[0].startswith("step 1") and "the reward fell" in guard.alarms[0]
    assert run.stopped == (COLLAPSED if action == "stop" else None)
    assert math.isfinite(len(guard.alarms))
