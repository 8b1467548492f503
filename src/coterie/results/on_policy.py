"""What a distillation on policy did, and whether it was worth it: the schema of its `on_policy.json`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from coterie.config import Settings
from coterie.results.accuracy import Accuracy, AccuracyChange
from coterie.results.intervals import Few
from coterie.results.tuning import TuningChange, TuningProof


class PromptSample(Settings):
    """A held-out prompt with the student's greedy reply before and after, the control's and the teacher's."""

    prompt: str
    before: str
    after: str
    control: str | None
    teacher: str


class OnPolicyRecord(Settings):
    """The content of `on_policy.json`.

    `distance`: KL(student || teacher) on what the student writes to held-out prompts, in bits a token, from
    the start to the end, paired by prompt. `over_control`: the same from the control to the student. Both are
    below 0 where the student came nearer. `right`, `right_over_control`: replies to held-out problems of a
    task. `tokens`, `control_tokens`: learnt by each.
    """

    config: dict[str, Any]
    teacher: str
    prompts: str
    steps: int
    tokens: int
    seconds: float
    distance: TuningChange
    right: AccuracyChange | None = None
    right_teacher: Accuracy | None = None
    control_tokens: int | None = None
    over_control: TuningChange | None = None
    right_over_control: AccuracyChange | None = None
    samples: list[PromptSample]
    proof: TuningProof | None = None
    versions: dict[str, str]
    path: str

    def lines(self) -> Iterator[str]:
        """The findings in words."""
        yield f"KL(student || teacher), bits a token on held-out prompts: {_moved(self.distance)}"
        if self.over_control is not None:
            yield (
                "cross-entropy on the teacher's replies instead, "
                f"{self.control_tokens:,} tokens as well: {_moved(self.over_control)} with the student's"
            )
        if self.right is not None and self.right_teacher is not None:
            found = self.right
            yield (
                f"right replies: {found.before.value:.1%} -> {found.after.value:.1%} of "
                f"{found.after.problems} (p = {found.p:.2g}); teacher {self.right_teacher.value:.1%}"
            )
        if self.right_over_control is not None:
            against = self.right_over_control
            yield f"right replies of the control: {against.before.value:.1%} (p = {against.p:.2g})"


def _moved(found: TuningChange) -> str:
    moved = found.change
    ends = "" if isinstance(moved, Few) else f", 95% {moved.low:+.4f} to {moved.high:+.4f}"
    return f"{found.before:.4f} -> {found.after:.4f} ({moved.value:+.4f}{ends}: {found.verdict})"
