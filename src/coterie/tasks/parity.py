"""Parity of a row of bits, and running sums: short to work through, all but impossible to guess."""

from __future__ import annotations

from coterie.primer.base import Rng
from coterie.tasks.problem import TaskFamily, TaskProblem


def _steps(digits: list[int], modulus: int) -> tuple[str, int]:
    """The sum after every digit, and the last one, all modulo `modulus`.

    One digit of the steps stands for one of the problem, so that a model finds each at the same distance.
    """
    total, shown = 0, []
    for digit in digits:
        total = (total + digit) % modulus
        shown.append(str(total))
    return "".join(shown), total


class Parity(TaskFamily):
    """Whether a row of bits has an odd number of ones; level n has n + 5 bits.

    Without working through it a model is right half of the time, which makes it the smallest task on which
    reinforcement must discover reasoning (arXiv 2510.11495).
    """

    name = "parity"
    says = "whether a row of 5 to 15 bits holds an odd number of ones (1) or not (0)"
    worked_share = 0.25

    def draw(self, rng: Rng, level: int) -> TaskProblem:
        """Both answers are equally likely."""
        bits = [rng.between(0, 1) for _ in range(level + 5)]
        steps, parity = _steps(bits, 2)
        text = "".join(map(str, bits))
        return TaskProblem(self.name, level, f"Parity of {text}?", str(parity), steps)

    def candidates(self, problem: TaskProblem) -> list[str]:
        """Both."""
        return ["0", "1"]


class RunningSum(TaskFamily):
    """The last digit of a sum of digits; level n has n + 3 of them."""

    name = "running-sum"
    says = "the last digit of the sum of 3 to 13 digits"
    worked_share = 0.25

    def draw(self, rng: Rng, level: int) -> TaskProblem:
        """The ten answers are equally likely."""
        digits = [rng.between(0, 9) for _ in range(level + 3)]
        steps, last = _steps(digits, 10)
        text = "".join(map(str, digits))
        return TaskProblem(self.name, level, f"Last digit of the digit sum of {text}?", str(last), steps)
