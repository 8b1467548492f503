"""Parity of a row of bits, and running sums: short to work through, all but impossible to guess."""

from __future__ import annotations

from typing import ClassVar

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


class _Sums(TaskFamily):
    """A row of digits and the last of its sums modulo `modulus`; level n has n + `shortest` digits.

    All answers are equally likely. Without working through it a model is right by chance alone.
    """

    modulus: ClassVar[int]
    shortest: ClassVar[int]
    asks: ClassVar[str]
    worked_share = 0.25

    def draw(self, rng: Rng, level: int) -> TaskProblem:
        """A random row."""
        digits = [rng.between(0, self.modulus - 1) for _ in range(level + self.shortest)]
        steps, last = _steps(digits, self.modulus)
        prompt = self.asks.format("".join(map(str, digits)))
        return TaskProblem(self.name, level, prompt, str(last), steps)

    def candidates(self, problem: TaskProblem) -> list[str]:
        """All answers."""
        return [str(number) for number in range(self.modulus)]


class Parity(_Sums):
    """Whether a row of bits has an odd number of ones: the smallest task on which reasoning must be found.

    Source: arXiv 2510.11495.
    """

    name = "parity"
    says = "whether a row of 5 to 15 bits holds an odd number of ones (1) or not (0)"
    modulus, shortest, asks = 2, 5, "Parity of {}?"


class RunningSum(_Sums):
    """The last digit of a sum of digits."""

    name = "running-sum"
    says = "the last digit of the sum of 3 to 13 digits"
    modulus, shortest, asks = 10, 3, "Last digit of the digit sum of {}?"
