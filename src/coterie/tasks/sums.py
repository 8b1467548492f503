"""Sums of several terms and products, worked in the surface form of the primer."""

from __future__ import annotations

from coterie.primer import arithmetic
from coterie.primer.base import Rng
from coterie.tasks.answers import whole_number
from coterie.tasks.problem import TaskFamily, TaskProblem

# Level -> (terms, most digits of a term) of chains, and (digits, digits) of the two factors of products.
_CHAINS = ((2, 1), (3, 1), (2, 2), (4, 1), (3, 2), (4, 2), (5, 2), (3, 3), (4, 3), (5, 3), (6, 3))
_PRODUCTS = ((1, 1), (2, 1), (2, 1), (3, 1), (2, 2), (2, 2), (3, 2), (3, 2), (4, 2), (3, 3), (4, 3))


def _number(rng: Rng, digits: int) -> int:
    return rng.between(0, 9) if digits == 1 else rng.between(10 ** (digits - 1), 10**digits - 1)


def _shown(problem: arithmetic.Exercise) -> str:
    """The steps of a problem; those that are problems themselves are worked out, one line each."""
    lines = []
    for expression, answer in problem.steps:
        parts = expression.split()
        inner = {"+": arithmetic.add, "-": arithmetic.subtract, "*": arithmetic.multiply}.get(
            parts[1] if len(parts) == 3 else ""
        )
        lines.append(inner(int(parts[0]), int(parts[2])).worked() if inner else f"{expression} = {answer}")
    return "\n".join(lines)


class _Numbers(TaskFamily):
    def equal(self, problem: TaskProblem, found: str) -> bool:
        """The same whole number."""
        return whole_number(found) == int(problem.answer)

    def candidates(self, problem: TaskProblem) -> list[str]:
        """The numbers around the answer."""
        return [str(int(problem.answer) + step) for step in range(-5, 6)]


class ChainSum(_Numbers):
    """Additions and subtractions from left to right, never below zero."""

    name = "chain-sum"
    says = "sums and differences of 2 to 6 terms of up to 3 digits"

    def draw(self, rng: Rng, level: int) -> TaskProblem:
        """A chain of the level's number of terms."""
        terms, digits = _CHAINS[level]
        numbers = [_number(rng, rng.between(1, digits) if digits > 1 else 1) for _ in range(terms)]
        numbers[0] = _number(rng, digits)
        problem = arithmetic.never_negative(rng, numbers)
        prompt = f"What is {problem.expression}?"
        return TaskProblem(self.name, level, prompt, problem.answer, _shown(problem))


class Multiplication(_Numbers):
    """Products, worked digit by digit."""

    name = "multiplication"
    says = "products of numbers of 1 to 4 digits"

    def draw(self, rng: Rng, level: int) -> TaskProblem:
        """Two factors."""
        first, second = (_number(rng, digits) for digits in _PRODUCTS[level])
        problem = arithmetic.multiply(first, second)
        prompt = f"What is {problem.expression}?"
        return TaskProblem(self.name, level, prompt, problem.answer, _shown(problem))
