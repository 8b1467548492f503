"""Whether a model is ready to learn from rewards: measured before the first step, because nothing else tells.

Without replies that differ in reward there is no gradient; with a skill that thinking does not help yet,
rewards teach the model to stop thinking.
"""

from __future__ import annotations

from collections.abc import Sequence

from coterie.config import Settings
from coterie.config.errors import TrainingError
from coterie.reinforce.rollouts import Rollout, RolloutGroup

LOWEST, HIGHEST, LEAST_INFORMATIVE = 0.02, 0.95, 0.2
_APART = 1.5  # longer replies must have this many times the tokens of shorter ones to be another way


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


def readiness(groups: Sequence[RolloutGroup]) -> Readiness:
    """Measured on sampled groups. Errors: `TrainingError` when the checker failed on all of them."""
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    if not rollouts:
        raise TrainingError(f"task: its checker failed on every reply: {groups[0].why_failed}")
    mean = _tokens(rollouts)
    longer = [rollout for rollout in rollouts if len(rollout.ids) >= mean]
    shorter = [rollout for rollout in rollouts if len(rollout.ids) < mean]
    two_ways = min(len(longer), len(shorter)) >= 10 and _tokens(longer) >= _APART * _tokens(shorter)
    return Readiness(
        problems=len(groups),
        group=max(len(group.rollouts) for group in groups),
        mean=_share_right(rollouts),
        any_of_group=sum(group.num_right > 0 for group in groups) / len(groups),
        informative=sum(group.informative for group in groups) / len(groups),
        truncated=sum(r.truncated for r in rollouts) / len(rollouts),
        mean_tokens=mean,
        long_right=_share_right(longer) if two_ways else None,
        short_right=_share_right(shorter) if two_ways else None,
    )


def _share_right(rollouts: Sequence[Rollout]) -> float:
    return sum(rollout.verdict.right for rollout in rollouts) / len(rollouts)


def _tokens(rollouts: Sequence[Rollout]) -> float:
    """The mean length."""
    return sum(len(rollout.ids) for rollout in rollouts) / len(rollouts)
