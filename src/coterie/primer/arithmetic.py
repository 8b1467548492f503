"""Arithmetic drills and worked problems.

One surface form everywhere: `47 + 85 = 132`. A worked problem is a chain of such lines,
`47 + 85: 7 + 5 = 12, 1 + 4 + 8 = 13, so 47 + 85 = 132`, so that each step is also met on its own as a drill.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

from coterie.primer.base import PrimerDocument, Rng, held_out

_ATOM = re.compile(r"1?\d( [-+*] \d){1,2}")
_DIGIT = re.compile(r"\d")


class Exercise(NamedTuple):
    """`expression = answer`, with the `(expression, answer)` pairs that lead there (none for an atom)."""

    expression: str
    answer: str
    steps: tuple[tuple[str, str], ...] = ()

    def direct(self) -> str:
        """The drill form."""
        return f"{self.expression} = {self.answer}"

    def worked(self) -> str:
        """The worked form: every step in the drill form, then the problem itself."""
        steps = ", ".join(f"{expression} = {answer}" for expression, answer in self.steps)
        return f"{self.expression}: {steps}, so {self.direct()}" if steps else self.direct()


def reserved(expression: str) -> bool:
    """Whether `expression` is kept for probes.

    Only problems of three digits or more can be, and no atoms (`7 + 5`, `1 + 4 + 8`, `13 - 8 - 1`), because
    atoms are the steps of which all other problems consist.
    """
    return (
        len(_DIGIT.findall(expression)) >= 3
        and _ATOM.fullmatch(expression) is None
        and held_out(f"math {expression}")
    )


def _columns(first: int, second: int) -> list[tuple[int, int]]:
    """Digit pairs from the last column to the first, the shorter number filled with zeros."""
    a, b = str(first)[::-1], str(second)[::-1]
    width = max(len(a), len(b))
    return list(zip(map(int, a.ljust(width, "0")), map(int, b.ljust(width, "0")), strict=True))


def add(first: int, second: int) -> Exercise:
    """Column addition; both numbers must not be negative."""
    steps, carry = [], 0
    for a, b in _columns(first, second):
        total = a + b + carry
        steps.append((f"{carry} + {a} + {b}" if carry else f"{a} + {b}", str(total)))
        carry = total // 10
    return Exercise(f"{first} + {second}", str(first + second), tuple(steps) if len(steps) > 1 else ())


def subtract(first: int, second: int) -> Exercise:
    """Column subtraction with borrowing. For a negative result the numbers are swapped."""
    if first < second:
        swapped = (f"{second} - {first}", str(second - first))
        return Exercise(f"{first} - {second}", str(first - second), (swapped,))
    steps, borrow = [], 0
    for a, b in _columns(first, second):
        short = a - b - borrow < 0
        top = a + 10 if short else a
        steps.append((f"{top} - {b} - 1" if borrow else f"{top} - {b}", str(top - b - borrow)))
        borrow = int(short)
    return Exercise(f"{first} - {second}", str(first - second), tuple(steps) if len(steps) > 1 else ())


def multiply(first: int, second: int) -> Exercise:
    """Long multiplication: one partial product per digit of `second`, or of `first` if that has more."""
    steps: list[tuple[str, str]] = []
    wide, narrow = (first, second) if second > 9 or first < 10 else (second, first)
    total: int | None = None
    for place, digit in enumerate(reversed(str(narrow))):
        part = int(digit) * 10**place
        if not part or narrow == part:
            continue
        steps.append((f"{wide} * {part}", str(wide * part)))
        if total is not None:
            steps.append((f"{total} + {wide * part}", str(total + wide * part)))
        total = (total or 0) + wide * part
    return Exercise(f"{first} * {second}", str(first * second), tuple(steps))


def divide(first: int, second: int) -> Exercise:
    """Whole division of a number that is not negative by a positive one."""
    return Exercise(
        f"{first} div {second}",
        str(first // second),
        ((f"{second} * {first // second}", str(first // second * second)),),
    )


def remainder(first: int, second: int) -> Exercise:
    """Remainder: the quotient, what it covers, and what is left over."""
    whole = first // second
    return Exercise(
        f"{first} mod {second}",
        str(first % second),
        (
            (f"{first} div {second}", str(whole)),
            (f"{second} * {whole}", str(second * whole)),
            (f"{first} - {second * whole}", str(first % second)),
        ),
    )


def compare(first: int, second: int) -> Exercise:
    """`<`, `>` or `=`, decided by length (not spelt out) or by the first different digit."""
    sign = _sign(first, second)
    steps = []
    a, b = str(first), str(second)
    if len(a) == len(b) > 1:
        for x, y in zip(a, b, strict=True):
            steps.append((f"compare {x} {y}", _sign(int(x), int(y))))
            if x != y:
                break
    return Exercise(f"compare {first} {second}", sign, tuple(steps))


def _sign(first: int, second: int) -> str:
    return "<" if first < second else ">" if first > second else "="


def arrange(verb: str, numbers: list[int]) -> Exercise:
    """`sort`, `reverse`, `copy`, `min` or `max` of a list. Sorting repeatedly takes the smallest number."""
    text = " ".join(map(str, numbers))
    if verb == "sort":
        steps, left = [], list(numbers)
        while len(left) > 1:
            smallest = min(left)
            steps.append((f"min {' '.join(map(str, left))}", str(smallest)))
            left.remove(smallest)
        return Exercise(f"sort {text}", " ".join(map(str, sorted(numbers))), tuple(steps))
    result = {"reverse": numbers[::-1], "copy": numbers, "min": [min(numbers)], "max": [max(numbers)]}[verb]
    return Exercise(f"{verb} {text}", " ".join(map(str, result)))


def chain(numbers: list[int], signs: str) -> Exercise:
    """A sum of several terms from left to right; `signs[i]` stands before `numbers[i + 1]`."""
    text, total = str(numbers[0]), numbers[0]
    steps = []
    for sign, number in zip(signs, numbers[1:], strict=True):
        result = total + number if sign == "+" else total - number
        steps.append((f"{total} {sign} {number}", str(result)))
        text, total = f"{text} {sign} {number}", result
    return Exercise(text, str(total), tuple(steps))


def _number(rng: Rng, digits: int) -> int:
    return rng.between(0, 9) if digits == 1 else rng.between(10 ** (digits - 1), 10**digits - 1)


def _draw_subtract(rng: Rng, level: int) -> Exercise:
    first, second = _number(rng, rng.between(1, level)), _number(rng, rng.between(1, level))
    if first < second and rng.chance(0.8):
        first, second = second, first
    return subtract(first, second)


def _draw_compare(rng: Rng, level: int) -> Exercise:
    first = _number(rng, level)
    near = (
        max(first + rng.between(-12, 12), 0)
        if rng.chance(0.4)
        else _number(rng, rng.between(max(level - 1, 1), level))
    )
    return compare(first, near)


def _draw_chain(rng: Rng, level: int) -> Exercise:
    return never_negative(
        rng, [_number(rng, rng.between(1, min(level, 2))) for _ in range(rng.between(3, 4))]
    )


def never_negative(rng: Rng, numbers: list[int]) -> Exercise:
    """A chain of the numbers with random signs."""
    signs, total = "", numbers[0]
    for number in numbers[1:]:
        # One difficulty at a time.
        sign = "-" if number <= total and rng.chance(0.5) else "+"
        total = total + number if sign == "+" else total - number
        signs += sign
    return chain(numbers, signs)


def _draw_arrange(verb: str) -> Callable[[Rng, int], Exercise]:
    def draw(rng: Rng, level: int) -> Exercise:
        most = 9 if level < 3 else 99
        return arrange(verb, [rng.between(0, most) for _ in range(rng.between(2, 3 + level))])

    return draw


# Each draw takes a level 1..3: more digits or more numbers.
DRAWS: dict[str, Callable[[Rng, int], Exercise]] = {
    "add": lambda rng, level: add(_number(rng, rng.between(1, level)), _number(rng, level)),
    "subtract": _draw_subtract,
    "multiply": lambda rng, level: multiply(_number(rng, min(level, 2)), _number(rng, max(level - 1, 1))),
    "divide": lambda rng, level: divide(_number(rng, rng.between(1, level)), rng.between(2, 9)),
    "remainder": lambda rng, level: remainder(_number(rng, rng.between(1, level)), rng.between(2, 9)),
    "compare": _draw_compare,
    "chain": _draw_chain,
    **{verb: _draw_arrange(verb) for verb in ("sort", "reverse", "copy", "min", "max")},
}
_KINDS = tuple(
    "add add subtract subtract multiply multiply divide remainder compare chain sort reverse copy min "
    "max".split()
)


def _line(rng: Rng, kind: str, level: int, worked: float) -> str:
    """One line for training: nothing on it, steps included, is reserved for probes."""
    while True:
        problem = DRAWS[kind](rng, level)
        show_steps = rng.chance(worked)
        shown = [problem.expression, *(expression for expression, _ in problem.steps if show_steps)]
        if not any(map(reserved, shown)):
            return problem.worked() if show_steps else problem.direct()


def generate(seed: int, index: int) -> PrimerDocument:
    """Document `index`: one sheet of problems, of one kind or mixed, drills or worked."""
    rng = Rng("arithmetic", seed, index)
    kinds = (rng.pick(_KINDS),) if rng.chance(0.4) else tuple(rng.sample(_KINDS, 4))
    worked = rng.pick((0.0, 0.3, 1.0))
    level = rng.pick((1, 2, 2, 3))
    count = rng.between(8, 14) if worked == 1.0 else rng.between(14, 28)
    lines = [_line(rng, rng.pick(kinds), level, worked) for _ in range(count)]
    return PrimerDocument("\n".join(lines) + "\n", "arithmetic", f"arithmetic/{index}")


def probes(seed: int, count: int) -> list[tuple[str, str]]:
    """`count` different reserved problems of level 2 as (`47 + 85 =`, `132`)."""
    rng = Rng("arithmetic probes", seed)
    found: dict[str, str] = {}
    while len(found) < count:
        problem = DRAWS[rng.pick(_KINDS)](rng, 2)
        if reserved(problem.expression):
            found[f"{problem.expression} ="] = problem.answer
    return list(found.items())
