"""What is refused before the first step, and what is warned of."""

from __future__ import annotations

import pytest

from coterie.config.errors import TrainingError
from coterie.infer.plays import Segment
from coterie.reinforce.readiness import readiness
from coterie.reinforce.rollouts import Rollout, RolloutGroup
from coterie.tasks.problem import TaskProblem, TaskVerdict

PROBLEM = TaskProblem("x", 0, "Question?", "1")


def group(*replies: tuple[bool, int]) -> RolloutGroup:
    """A group of replies: whether right, and how many tokens."""
    return RolloutGroup(
        PROBLEM,
        tuple(
            Rollout(
                (Segment((1,)), Segment((2,) * length, (-0.1,) * length)),
                "",
                "",
                False,
                TaskVerdict.of(right, None),
                float(right),
            )
            for right, length in replies
        ),
    )


def test_a_task_of_medium_difficulty_passes() -> None:
    found = readiness([group((True, 9), (False, 9)), group((False, 9), (False, 9))])
    assert (found.mean, found.any_of_group, found.informative, found.mean_tokens) == (0.25, 0.5, 0.5, 9)
    assert found.reason_against() is None and found.warning() is None
    assert found.words().startswith("before: 25.0% of replies right, 50% of problems at least once in 2")


@pytest.mark.parametrize(
    ("groups", "reason"),
    [
        ([group((False, 5), (False, 5))] * 3, "only 0.0% of replies are right"),
        ([group((True, 5), (True, 5))] * 3, "100.0% of replies are right already"),
        ([group((True, 5), (True, 5)), group((False, 5), (False, 5))], "only 0% of groups have replies"),
    ],
)
def test_without_a_signal_it_says_why(groups: list[RolloutGroup], reason: str) -> None:
    against = readiness(groups).reason_against()
    assert against is not None and reason in against


def test_thinking_that_does_not_help_is_named() -> None:
    harmful = [group((True, 3), (False, 60), (False, 3), (False, 60))] * 10
    warning = readiness(harmful).warning()
    assert (
        warning is not None and "long replies are right no more often (0%) than short ones (50%)" in warning
    )
    # One reply in four takes the long way, so that the mean is near the short one.
    rare = [group((True, 7), (False, 7), (True, 7), (False, 22))] * 12
    warning = readiness(rare).warning()
    assert warning is not None and "no more often (0%) than short ones (67%)" in warning
    assert readiness([group((False, 3), (True, 60), (False, 3), (False, 60))] * 10).warning() is None
    assert readiness([group((True, 9), (False, 9))] * 10).warning() is None  # all of one length


def test_a_checker_that_fails_is_not_a_model_that_fails() -> None:
    with pytest.raises(TrainingError, match="its checker failed on every reply: no disk"):
        readiness([RolloutGroup(PROBLEM, (), 8, "no disk")])
