"""What a run of co-distillation found: each student, the teacher, and the student's control."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from coterie.config import Settings
from coterie.results.intervals import Few
from coterie.results.tuning import TuningChange


class StudentRecord(Settings):
    """One student. `path`, `control_path`: where it and its control are, relative to the run.

    `bits_per_byte`: of held-out text. `gain`: from the control (before) to the student (after), paired by
    document; None without a control.
    """

    name: str
    path: str
    parameters: int
    bits_per_byte: float
    control_path: str | None = None
    gain: TuningChange | None = None


class CodistilRecord(Settings):
    """`codistil.json`. `config`: the run's settings. `teacher_bits_per_byte`: on the students' held-out text.

    `tokens`: each model was trained on, the same rows in the same order.
    """

    config: dict[str, Any]
    teacher_parameters: int
    teacher_bits_per_byte: float
    students: list[StudentRecord]
    steps: int
    tokens: int
    seconds: float
    versions: dict[str, str]

    def lines(self) -> Iterator[str]:
        """The record in words, a line for each model."""
        yield f"teacher: {self.teacher_bits_per_byte:.4f} bits per byte of held-out text"
        for student in self.students:
            line = f"student {student.name}: {student.bits_per_byte:.4f}"
            gain = student.gain
            if gain is not None:
                moved = gain.change
                ends = "" if isinstance(moved, Few) else f", 95% {moved.low:+.4f} to {moved.high:+.4f}"
                line += (
                    f"; by cross-entropy alone {gain.before:.4f} ({moved.value:+.4f}{ends}: {gain.verdict})"
                )
            yield line
