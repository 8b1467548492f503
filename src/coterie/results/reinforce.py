"""What a reinforcement run found, did and gained: the schema of its `reinforce.json`."""

from __future__ import annotations

import itertools
from typing import Any, Literal

from pydantic import Field

from coterie.config import Settings
from coterie.results.accuracy import Accuracy, AccuracyChange, PassAt, PassAtChange
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


class HeldOutReply(Settings):
    """The most likely reply to one held-out problem. `why`: the verdict in words. `tokens`: of the reply."""

    problem: str
    level: int
    prompt: str
    answer: str
    reasoning: str
    content: str
    right: bool
    tokens: int
    truncated: bool
    why: str


class HeldOutMeasured(Settings):
    """What a model does on problems that it is not trained on.

    `held_out`: at the levels that are trained on; `beyond`: one level above. `pass_at`: from sampled replies.
    `experts`: of each mixture layer, how often each expert was chosen in some of these.
    """

    held_out: list[HeldOutReply]
    beyond: list[HeldOutReply]
    pass_at: PassAt | None = None
    experts: dict[int, list[int]] = Field(default_factory=dict)

    @property
    def mean_tokens(self) -> float:
        """Of the replies to the held-out problems."""
        return sum(reply.tokens for reply in self.held_out) / max(1, len(self.held_out))


class PolicySize(Settings):
    """Numbers of parameters: all, those that one token uses (embedding and head left out), those trained."""

    moe: bool
    parameters: int
    active: int
    trainable: int


class ReplySample(Settings):
    """One held-out problem with the replies before and after."""

    before: HeldOutReply
    after: HeldOutReply

    @property
    def kind(self) -> Literal["gained", "lost", "right", "wrong"]:
        """What became of the problem; `right` and `wrong`: it stayed so."""
        if self.before.right == self.after.right:
            return "right" if self.after.right else "wrong"
        return "gained" if self.after.right else "lost"


class ReinforceStart(Settings):
    """What was known before the first step: the content of `start.json`.

    `inputs`: what the run reads, in words -> a hash of its content. `watched`: accuracy on the problems
    (split `val`) that are answered again and again.
    """

    config: dict[str, Any]
    inputs: dict[str, str]
    task: str
    task_version: int
    size: PolicySize
    readiness: Readiness
    watched: Accuracy
    measured: HeldOutMeasured
    versions: dict[str, str]


class ReinforceRecord(Settings):
    """What a reinforcement run was and did.

    `change`: held-out accuracy (split `test`, greedy). `beyond`: at the level above those trained on.
    `pass_at`: from sampled replies. `mean_tokens`: of the replies to `test`, before and after. `answered`: of
    each problem of `test`, whether it was answered rightly before and after. `experts`: how often each
    expert of a layer was chosen in sampled replies, before and after. `sampling_flops`, `training_flops`: see
    `reinforce.compute`.
    """

    config: dict[str, Any]
    task: str
    task_version: int
    size: PolicySize
    readiness: Readiness
    change: AccuracyChange
    beyond: AccuracyChange | None = None
    pass_at: PassAtChange | None = None
    mean_tokens: tuple[float, float]
    answered: dict[str, tuple[bool, bool]]
    samples: list[ReplySample]
    experts: dict[int, tuple[list[int], list[int]]] = Field(default_factory=dict)
    ended: str
    warnings: list[str] = Field(default_factory=list)
    steps: int
    tokens_sampled: int
    tokens_trained: int
    sampling_flops: float
    training_flops: float
    seconds: float
    proof: TuningProof | None = None
    versions: dict[str, str]


def choose_samples(before: HeldOutMeasured, after: HeldOutMeasured, most: int = 36) -> list[ReplySample]:
    """At most `most` problems: gained ones, lost ones, those that stayed right and wrong, a quarter of each.

    What one kind lacks the others take. The order is that of the kinds, and of the problems in each.
    """
    pairs = [
        ReplySample(before=then, after=now) for then, now in zip(before.held_out, after.held_out, strict=True)
    ]
    kinds = [[pair for pair in pairs if pair.kind == kind] for kind in ("gained", "lost", "right", "wrong")]
    room = [0] * len(kinds)
    for at in itertools.islice(itertools.cycle(range(len(kinds))), most * len(kinds)):
        if sum(room) < most and room[at] < len(kinds[at]):
            room[at] += 1
    return [pair for kind, count in zip(kinds, room, strict=True) for pair in kind[:count]]
