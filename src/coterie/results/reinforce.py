"""What a reinforcement run found, did and gained: the schema of its `reinforce.json`."""

from __future__ import annotations

from typing import Any

from coterie.config import Settings
from coterie.results.accuracy import AccuracyChange
from coterie.results.tuning import TuningProof

LOWEST, HIGHEST, LEAST_INFORMATIVE = 0.02, 0.95, 0.2


class Readiness(Settings):
    """What the model does with the task before it is trained on it.

    `mean`: share of right replies. `any_of_group`: of problems with at least one. `informative`: of groups
    whose replies earn different rewards. `long_right`, `short_right`: share of right ones among replies of at
    least the mean length and among shorter ones (None: too few of either, or of much the same length).
    """

    problems: int
    group: int
    mean: float
    any_of_group: float
    informative: float
    truncated: float
    mean_tokens: float
    long_right: float | None
    short_right: float | None

    def words(self) -> str:
        """One line for people."""
        paths = ""
        if self.long_right is not None and self.short_right is not None:
            paths = f"; long replies {self.long_right:.0%} right, short ones {self.short_right:.0%}"
        return (
            f"before: {self.mean:.1%} of replies right, {self.any_of_group:.0%} of problems at least once "
            f"in {self.group}, {self.informative:.0%} of groups with a signal, "
            f"{self.mean_tokens:.0f} tokens each"
            f"{paths}"
        )

    def reason_against(self) -> str | None:
        """Why there is nothing to learn from; None where there is."""
        if self.mean < LOWEST:
            return (
                f"only {self.mean:.1%} of replies are right, so rewards hardly ever come; tune on worked "
                "replies first (coterie task rows), or choose easier levels"
            )
        if self.mean > HIGHEST:
            return f"{self.mean:.1%} of replies are right already; choose harder levels"
        if self.informative < LEAST_INFORMATIVE:
            return (
                f"only {self.informative:.0%} of groups have replies of different rewards; choose levels of "
                "medium difficulty"
            )
        return None

    def warning(self) -> str | None:
        """What rewards would probably unlearn; None where nothing is to be feared."""
        if self.long_right is None or self.short_right is None or self.long_right > self.short_right:
            return None
        return (
            f"long replies are right no more often ({self.long_right:.0%}) than short ones "
            f"({self.short_right:.0%}): rewards will probably shorten the reasoning; tune on worked replies "
            "first"
        )


class ReplySample(Settings):
    """One held-out problem with the reply before and after."""

    prompt: str
    answer: str
    before: str
    after: str
    before_right: bool
    after_right: bool


class ReinforceRecord(Settings):
    """What a reinforcement run was and did.

    `change`: held-out accuracy (split `test`, greedy). `beyond`: at the level above those trained on.
    `mean_tokens`: of the replies to `test`, before and after.
    """

    config: dict[str, Any]
    task: str
    task_version: int
    readiness: Readiness
    change: AccuracyChange
    beyond: AccuracyChange | None = None
    mean_tokens: tuple[float, float]
    samples: list[ReplySample]
    ended: str
    steps: int
    tokens_sampled: int
    tokens_trained: int
    seconds: float
    proof: TuningProof | None = None
    versions: dict[str, str]
