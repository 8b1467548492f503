"""The routing guard: what makes it act, and that a resumed run does not get past it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from coterie.train.routing_guard import RouterGuard


def drifting(action: str, share: float, steps: int) -> tuple[RouterGuard, list[str], Any]:
    restored: list[str] = []
    guard = RouterGuard(action, 8, lambda: share, lambda: restored.append("back"))  # type: ignore[arg-type]

    class Fake:
        step_count, last_checkpoint, reason = 0, "step-1", ""

        def stop(self, reason: str) -> None:
            self.reason = self.reason or reason

    fake: Any = Fake()
    fake.steps = steps
    return guard, restored, fake


@pytest.mark.parametrize("action", ["warn", "stop", "rollback"])
def test_the_guard_acts_on_drift_overload_and_dead_experts(action: str) -> None:
    calm = {"kind": "train", "worst_overload": 1.5, "dead_experts": 0.0}
    cases: list[tuple[dict[str, float], float, str]] = [
        ({"worst_overload": 6.0}, 1.0, "share"),
        ({"dead_experts": 4.0}, 1.0, "no token"),
        ({}, 0.2, "expert choices"),
    ]
    for bad, share, word in cases:
        guard, restored, trainer = drifting(action, share, steps=40)
        for step in range(1, 7):
            trainer.step_count = step
            guard.on_record(trainer, calm | (bad if step == 6 else {}))
            if not trainer.reason:
                guard.after_step(trainer)
        assert len(guard.warnings) == 1 and word in guard.warnings[0]
        assert bool(trainer.reason) == (action != "warn") and restored == (
            ["back"] if action == "rollback" else []
        )
        again, _, later = drifting(action, 1.0, steps=40)
        again.load_state_dict(json.loads(json.dumps(guard.state_dict())))
        again.on_start(later)
        assert bool(later.reason) == (action != "warn")  # the same command does not run past it
