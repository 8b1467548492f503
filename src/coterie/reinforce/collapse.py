"""Whether a run is collapsing: watched over its steps, because a single step says little.

Entropy that falls is no alarm: it does so wherever something is learnt.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

from coterie.train.callbacks import Callback
from coterie.train.running import Record, RunningTraining

_log = logging.getLogger("coterie")
COLLAPSED = "collapse"
_WINDOW = 5  # steps that are averaged
_FELL, _SIGMAS = 0.15, 4.5  # the least fall of a share, and how many of its standard errors
_ROSE = 2.0  # times the entropy of the first steps
_CUT = 0.5  # share of replies that did not end
_EFFECTIVE = 0.3  # share of a step's tokens that still count as samples of the policy
_APART = 0.05  # nats between sampler and trainer in float32, where they are about 1e-6 apart
_KEPT = ("level_reward", "any_right", "entropy", "truncated", "effective_share", "mismatch")


class CollapseGuard(Callback):
    """Watches the rollouts' records. On an alarm the run ends (`stop`), or one line says so (`warn`).

    `float32`: whether sampler and trainer should agree to rounding. `alarms`: what was found, in words.
    """

    def __init__(self, action: Literal["stop", "warn"], float32: bool) -> None:
        self.action = action
        self.float32 = float32
        self.alarms: list[str] = []
        self._seen: dict[str, list[float]] = {name: [] for name in _KEPT}

    def on_record(self, trainer: RunningTraining, record: Record) -> None:
        if record["kind"] != "rollout":
            return
        for name in _KEPT:
            if name in record:
                self._seen[name].append(float(record[name]))
        found = alarm(self._seen, self.float32)
        if found is None:
            return
        line = f"step {record['step']}: {found}"
        if not self.alarms:
            _log.warning("%s%s", line, "" if self.action == "warn" else "; the run ends")
        self.alarms.append(line)
        if self.action == "stop":
            trainer.stop(COLLAPSED)

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self._seen, "alarms": self.alarms}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._seen = {name: [float(value) for value in state["seen"][name]] for name in _KEPT}
        self.alarms = [str(line) for line in state["alarms"]]


def alarm(seen: Mapping[str, Sequence[float]], float32: bool = False) -> str | None:
    """What is wrong with a run whose steps measured `seen` (name -> one value a step); None: nothing.

    `level_reward` (the mean of the levels' running means: harder levels that come more often do not lower
    it), `any_right` (share of problems with a right reply), `entropy` (nats per token), `truncated`,
    `effective_share`, `mismatch` (nats).
    """
    mismatch, effective = seen["mismatch"], seen["effective_share"]
    if float32 and mismatch and mismatch[-1] > _APART:
        return (
            f"sampler and trainer are {mismatch[-1]:.2g} nats apart in float32, so they are not the same "
            "policy; this is a fault of the program, please report it"
        )
    if len(effective) >= 2 and max(effective[-2:]) < _EFFECTIVE:
        return (
            f"only {effective[-1]:.0%} of a step's tokens still count as samples of the policy; lower "
            "'updates' or the learning rate"
        )
    if len(seen["level_reward"]) < 2 * _WINDOW:
        return None
    fall = _fall(seen["level_reward"])
    if fall is not None:
        return f"the reward fell from {fall[0]:.2f} to {fall[1]:.2f}; lower the learning rate"
    entropy, truncated = seen["entropy"], seen["truncated"]
    first, last = _mean(entropy[:_WINDOW]), _mean(entropy[-_WINDOW:])
    fewer = _fall(seen["any_right"])
    if fewer is not None and last < first:
        return (
            f"problems with a right reply fell from {fewer[0]:.0%} to {fewer[1]:.0%} while entropy fell from "
            f"{first:.2g} to {last:.2g} nats: the model gives up right ways; lower the learning rate"
        )
    if last > _ROSE * first and last > 0.1:
        return f"entropy rose from {first:.2g} to {last:.2g} nats a token; lower the learning rate"
    if _mean(truncated[-_WINDOW:]) > _CUT > 2 * _mean(truncated[:_WINDOW]):
        return (
            f"{_mean(truncated[-_WINDOW:]):.0%} of replies do not end within max_tokens, at first "
            f"{_mean(truncated[:_WINDOW]):.0%}; raise max_tokens"
        )
    return None


def _fall(values: Sequence[float]) -> tuple[float, float] | None:
    """(the best mean of a window before, the mean of the last window), where the fall is no chance."""
    means = [_mean(values[at : at + _WINDOW]) for at in range(len(values) - _WINDOW + 1)]
    now = means[-1]
    before = means[:-_WINDOW]
    if not before:
        return None
    # Differences of neighbours are free of the trend that learning is. They have twice the variance of a
    # step, as the difference of two windows has twice that of a window.
    error = math.sqrt(_mean([(b - a) ** 2 for a, b in pairwise(values)]) / _WINDOW)
    best = max(before)
    return (best, now) if best - now > max(_FELL, _SIGMAS * error) else None


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
