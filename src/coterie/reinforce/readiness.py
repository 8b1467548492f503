"""Whether a model is ready to learn from rewards: measured before the first step, because nothing else tells.

Without replies that differ in reward there is no gradient; with a skill that thinking does not help yet,
rewards teach the model to stop thinking.
"""

from __future__ import annotations

from collections.abc import Sequence

from coterie.config.errors import TrainingError
from coterie.reinforce.rollouts import Rollout, RolloutGroup
from coterie.results.reinforce import Readiness

_APART = 1.5  # longer replies must have this many times the tokens of shorter ones to be another way


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
