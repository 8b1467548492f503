"""Arithmetic on whole numbers, by operation and by the digits of the operands."""

from __future__ import annotations

from collections.abc import Sequence

from coterie.benchmarks.generated import Cell, Draft, NumberBenchmark
from coterie.primer.arithmetic import reserved
from coterie.primer.base import Rng

_SIGNS = {"add": "+", "subtract": "-", "multiply": "*"}
_DIGITS = {"add": (1, 2, 3, 4, 6), "subtract": (1, 2, 3, 4, 6), "multiply": (1, 2, 3, 4)}
_CHAINS = (2, 3, 4, 5)  # terms of one and two digits
_NESTED = (1, 2)  # digits
_DIVIDED = (1, 2, 3)  # digits of the quotient


def number(rng: Rng, digits: int, least: int = 0) -> int:
    """A random number of a number of digits; `least`: of one digit."""
    return rng.between(least, 9) if digits == 1 else rng.between(10 ** (digits - 1), 10**digits - 1)


class Arithmetic(NumberBenchmark):
    """Sums, differences, products, quotients, remainders, chains and brackets.

    Operands have exactly as many digits as the group says, so twins are as hard as their item. What the
    embedded corpus shows is left out as far as its rule for probes reaches (`primer.arithmetic.reserved`).
    """

    name = "arithmetic"
    says = "sums, differences, products, quotients, remainders and chains of 1 to 6 digits"

    def cells(self) -> Sequence[Cell]:
        """Operations and the digits of their operands."""
        plain = [Cell(name, f"{size} digits", size) for name in _SIGNS for size in _DIGITS[name]]
        return [
            *plain,
            *(Cell("divide", f"{size} digits", size) for size in _DIVIDED),
            *(Cell("remainder", f"{size} digits", size) for size in _DIVIDED),
            *(Cell("chain", f"{size} terms", size) for size in _CHAINS),
            *(Cell("brackets", f"{size} digits", size) for size in _NESTED),
        ]

    def draw(self, rng: Rng, cell: Cell) -> Draft:
        """An expression and its value."""
        for _ in range(100):
            expression, value = _drawn(rng, cell)
            if reserved(expression):
                break
        return Draft(f"What is {expression}?", str(value))


def _drawn(rng: Rng, cell: Cell) -> tuple[str, int]:
    size = cell.size
    if cell.template in _SIGNS:
        a, b = number(rng, size), number(rng, size)
        if cell.template == "subtract" and a < b:
            a, b = b, a
        value = {"add": a + b, "subtract": a - b, "multiply": a * b}[cell.template]
        return f"{a} {_SIGNS[cell.template]} {b}", value
    if cell.template == "divide":
        divisor, quotient = rng.between(2, 9), number(rng, size, 1)
        return f"{divisor * quotient} / {divisor}", quotient
    if cell.template == "remainder":
        value, divisor = number(rng, size + 1), rng.between(3, 9)
        return f"the remainder of {value} divided by {divisor}", value % divisor
    if cell.template == "brackets":
        a, b, c = number(rng, size), number(rng, size), rng.between(2, 9)
        return f"({a} + {b}) * {c}", (a + b) * c
    total = number(rng, 2)
    text = str(total)
    for _ in range(size - 1):
        term = number(rng, rng.between(1, 2), 1)
        sign = "-" if total >= term and rng.chance(0.5) else "+"
        text, total = f"{text} {sign} {term}", total + term if sign == "+" else total - term
    return text, total
