"""A guard on routing while a model is tuned: overload, dead experts and drift from where it began."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Literal

from coterie.config.errors import TrainingError
from coterie.train.callbacks import Callback
from coterie.train.running import Record, RunningTraining

_log = logging.getLogger("coterie")
OVERLOAD = 3.0  # times the worst overload of the first steps
DEAD = 0.25  # of all routed experts, beyond those of the first steps
DRIFT = 0.5  # share of expert choices on fixed texts that are still those of the start
LOOKS = 10  # measurements of the agreement in a run
SETTLE = 3  # first steps, whose worst values define what is usual


class RouterGuard(Callback):
    """Watches the statistics of every step for overloaded and dead experts, and `agreement()` for drift.

    `agreement()`: share of expert choices on fixed texts that are as at the start, measured ten times in a
    run and at its end. The first steps of a run define what is usual. `action`: `warn` logs one line per kind
    of problem; `stop` ends the run after the step; `rollback` also ends it, and the result is what
    `restore()` brings back (the last checkpoint).
    """

    def __init__(
        self,
        action: Literal["warn", "stop", "rollback"],
        num_experts: int,
        agreement: Callable[[], float],
        restore: Callable[[], None],
    ) -> None:
        self.action = action
        self.num_experts = num_experts
        self.agreement = agreement
        self.restore = restore
        self.warnings: list[str] = []
        self._usual: dict[str, float] = {}
        self._seen = 0
        self._reported: set[str] = set()

    def state_dict(self) -> dict[str, Any]:
        return {
            "warnings": self.warnings,
            "usual": self._usual,
            "seen": self._seen,
            "told": sorted(self._reported),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.warnings, self._usual = list(state["warnings"]), dict(state["usual"])
        self._seen, self._reported = int(state["seen"]), set(state["told"])

    def on_start(self, trainer: RunningTraining) -> None:
        if self.warnings and self.action != "warn":  # this guard has ended the run before
            trainer.stop(f"routing: {self.warnings[0]}")

    def after_step(self, trainer: RunningTraining) -> None:
        if trainer.step_count % max(1, trainer.steps // LOOKS) == 0 or trainer.step_count >= trainer.steps:
            share = self.agreement()
            if share < DRIFT:
                self._act(
                    trainer, "drift", f"only {share:.0%} of expert choices on fixed texts are as at the start"
                )

    def on_record(self, trainer: RunningTraining, record: Record) -> None:
        if record["kind"] != "train" or "worst_overload" not in record:
            return
        if self._seen < SETTLE:
            self._seen += 1
            for name in ("worst_overload", "dead_experts"):
                self._usual[name] = max(self._usual.get(name, 0.0), record[name])
            return
        overload, dead = record["worst_overload"], record["dead_experts"]
        if overload > OVERLOAD * self._usual["worst_overload"]:
            usual = self._usual["worst_overload"]
            self._act(
                trainer, "overload", f"an expert has {overload:.1f} times its share, {usual:.1f} at the start"
            )
        if dead > self._usual["dead_experts"] + DEAD * self.num_experts:
            usual = self._usual["dead_experts"]
            self._act(trainer, "dead", f"{dead:.0f} experts received no token, {usual:.0f} at the start")

    def _act(self, trainer: RunningTraining, kind: str, what: str) -> None:
        if kind in self._reported:
            return
        self._reported.add(kind)
        line = f"step {trainer.step_count}: {what}"
        self.warnings.append(line)
        if self.action == "warn":
            _log.warning("%s; freeze the router, lower the learning rate or watch `coterie routing`", line)
            return
        if self.action == "rollback":
            if trainer.last_checkpoint is None:
                raise TrainingError(f"{line}, and there is no checkpoint to go back to; lower save_every")
            self.restore()
        trainer.stop(f"routing: {line}")
