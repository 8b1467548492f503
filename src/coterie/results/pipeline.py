"""What the stages of a pipeline cost and brought: the schema of `pipeline.json`."""

from __future__ import annotations

from typing import Any

from coterie.config import Settings
from coterie.results.accuracy import Accuracy, AccuracyChange


class StageRecord(Settings):
    """One stage. `path`: what it made, relative to the pipeline's folder, as `folder` and `page` are.

    `right`: a digit for each held-out problem, 1 where the greedy reply is right; None for a stage without a
    model. `change`: from the stage with a model before it. `flops`: of training and sampling, by the count of
    `coterie plan` with attention over `context` tokens. `seconds`: of the process, without what a kill lost.
    `identity`: of its settings and of what it started from.
    """

    name: str
    kind: str
    folder: str
    path: str
    page: str | None = None
    accuracy: Accuracy | None = None
    change: AccuracyChange | None = None
    right: str | None = None
    mean_tokens: float | None = None
    parameters: int | None = None
    active_parameters: int | None = None
    tokens_trained: int = 0
    tokens_sampled: int = 0
    context: int = 0
    flops: float = 0.0
    seconds: float = 0.0
    identity: str
    settings: dict[str, Any]

    def words(self) -> str:
        """One line for people."""
        if self.accuracy is None:
            return f"{self.name}: {self.path}"
        found = self.accuracy
        return f"{self.name}: {found.value:.1%} right ({found.low:.1%} to {found.high:.1%})"


class PipelineRecord(Settings):
    """All stages of a pipeline that are done, in order."""

    config: dict[str, Any]
    task: str
    task_version: int
    stages: list[StageRecord]
    versions: dict[str, str]
