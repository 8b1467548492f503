"""What a distillation did, and whether the teacher helped: the schema of its `distill.json`."""

from __future__ import annotations

from typing import Any

from coterie.config import Settings
from coterie.results.intervals import Few
from coterie.results.tuning import TuningChange


class TargetFacts(Settings):
    """The kept answers of a teacher.

    `words`: what is kept of each token. `asked`: rows that this run asked the teacher for; the others were
    there.
    """

    directory: str
    words: str
    rows: int
    asked: int
    num_bytes: int
    seconds: float


class LearntPart(Settings):
    """Means over a part of the steps.

    `cross_entropy` and `distil_kl` in nats a token; `distil_share`: the teacher's share of the loss;
    `teacher_better`: share of the tokens that the teacher finds likelier than the student does.
    """

    cross_entropy: float
    distil_kl: float
    distil_share: float
    teacher_better: float


class DistillRecord(Settings):
    """The content of `distill.json`.

    `measure`: what the scores are. `teacher_score`: None for a server. `start_score`: of the student before
    the first step. `control`: from the student that was trained by cross-entropy alone to the distilled one,
    paired by text (below 0: the teacher helped); None where it was left out. `first` and `last`: of a tenth
    of the steps each. `seconds`: spent in steps.
    """

    config: dict[str, Any]
    student: str
    teacher: str
    data: str
    measure: str
    steps: int
    tokens: int
    seconds: float
    control_seconds: float | None = None
    teacher_score: float | None = None
    start_score: float
    student_score: float
    control: TuningChange | None = None
    first: LearntPart
    last: LearntPart
    targets: TargetFacts | None = None
    versions: dict[str, str]
    path: str

    def lines(self) -> list[str]:
        """The findings as sentences."""
        teacher = "" if self.teacher_score is None else f"{self.teacher_score:.4f} teacher, "
        return [
            f"{self.measure}: {teacher}{self.start_score:.4f} student before",
            self.verdict,
            f"the teacher's share of the loss was {self.last.distil_share:.0%} at the end; it found "
            f"{self.last.teacher_better:.0%} of the tokens likelier; KL {self.first.distil_kl:.3f} -> "
            f"{self.last.distil_kl:.3f} nats",
        ]

    @property
    def verdict(self) -> str:
        """One line: the distilled student against the one that was trained without the teacher."""
        scored = f"{self.measure}: {self.student_score:.4f} distilled"
        if self.control is None:
            return (
                f"{scored}; no control was trained (--no-control), so nothing shows that the teacher helped"
            )
        moved = self.control.change
        scored += f", {self.control.before:.4f} by cross-entropy alone at equal tokens"
        if isinstance(moved, Few):
            return f"{scored}; {moved.documents} texts are too few to tell"
        interval = f"{moved.value:+.4f}, 95% {moved.low:+.4f} to {moved.high:+.4f}"
        found = {"better": "the teacher helped", "worse": "the teacher did harm"}
        return f"{scored} ({interval}): {found.get(self.control.verdict, self.control.verdict)}"
