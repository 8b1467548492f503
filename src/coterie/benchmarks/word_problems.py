"""Word problems of one to four steps, from templates whose numbers and names change."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from coterie.benchmarks.generated import Cell, Draft, NumberBenchmark
from coterie.primer.base import Rng
from coterie.primer.words import BOYS, GIRLS, PLACES, THINGS

# A template gets names, things (plural) and a draw of numbers from 2 to `size`; it gives text and answer.
_Number = Callable[[], int]
_Template = Callable[[Sequence[str], Sequence[str], _Number], tuple[str, int]]
_SIZES = {"small": 9, "medium": 30, "large": 200}


def _gives(n: Sequence[str], t: Sequence[str], x: _Number) -> tuple[str, int]:
    a, b = x(), x()
    total = a + b
    return f"{n[0]} has {total} {t[0]} and gives {a} of them to {n[1]}. How many are left?", b


def _together(n: Sequence[str], t: Sequence[str], x: _Number) -> tuple[str, int]:
    a, b = x(), x()
    return (
        f"{n[0]} has {a} {t[0]}. {n[1]} has {b} more than {n[0]}. How many do they have together?",
        2 * a + b,
    )


def _boxes(n: Sequence[str], t: Sequence[str], x: _Number) -> tuple[str, int]:
    a, b, c = x(), x(), x()
    text = f"{n[0]} packs {a} bags with {b} {t[0]} in each. {c} {t[0]} do not fit. How many are there?"
    return text, a * b + c


def _share(n: Sequence[str], t: Sequence[str], x: _Number) -> tuple[str, int]:
    a, b = x(), x()
    return f"{a} friends share {a * b} {t[0]} equally. How many does each of them get?", b


def _costs(n: Sequence[str], t: Sequence[str], x: _Number) -> tuple[str, int]:
    a, b, c, d = x(), x(), x(), x()
    text = (
        f"One of the {t[0]} costs {a} coins and one of the {t[1]} costs {b} coins. {n[0]} buys {c} {t[0]} "
        f"and {d} {t[1]}. How many coins is that?"
    )
    return text, a * c + b * d


def _change(n: Sequence[str], t: Sequence[str], x: _Number) -> tuple[str, int]:
    a, b, c = x(), x(), x()
    text = f"{n[0]} has {a * b + c} coins and buys {a} {t[0]} at {b} coins each. How many coins are left?"
    return text, c


def _days(n: Sequence[str], t: Sequence[str], x: _Number) -> tuple[str, int]:
    a, b, c = x(), x(), x()
    text = (
        f"{n[0]} finds {a} {t[0]} on the first day and {b} more each day than on the day before. How many "
        f"{t[0]} does {n[0]} find on day {c}?"
    )
    return text, a + b * (c - 1)


def _twice(n: Sequence[str], t: Sequence[str], x: _Number) -> tuple[str, int]:
    a, b = x(), x()
    text = (
        f"{n[0]} has twice as many {t[0]} as {n[1]}. {n[1]} has {a} {t[0]} and then loses none, while {n[0]} "
        f"finds {b} more. How many does {n[0]} have now?"
    )
    return text, 2 * a + b


def _three(n: Sequence[str], t: Sequence[str], x: _Number) -> tuple[str, int]:
    a, b, c = x(), x(), x()
    text = (
        f"{n[0]}, {n[1]} and {n[2]} have {a + b + c} {t[0]} together. {n[0]} has {a} and {n[1]} has {b}. How "
        f"many does {n[2]} have?"
    )
    return text, c


def _rows(n: Sequence[str], t: Sequence[str], x: _Number) -> tuple[str, int]:
    a, b, c, d = x(), x(), x(), x()
    text = f"{n[0]} lays {t[0]} in {a} rows of {b}. {n[1]} adds {c} rows of {d}. How many {t[0]} lie there?"
    return text, a * b + c * d


def _left(n: Sequence[str], t: Sequence[str], x: _Number) -> tuple[str, int]:
    a, b, c = x(), x(), x()
    text = (
        f"{n[0]} bakes {a} trays with {b} {t[0]} each. {n[1]} takes one whole tray away, and {n[2]} brings "
        f"{c} {t[0]}. How many {t[0]} are there now?"
    )
    return text, (a - 1) * b + c


def _travel(n: Sequence[str], t: Sequence[str], x: _Number) -> tuple[str, int]:
    a, b, c = x(), x(), x()
    text = f"{n[0]} walks {a} miles a day for {b} days, and then {c} miles more. How many miles is that?"
    return text, a * b + c


_TEMPLATES: dict[str, tuple[int, _Template]] = {  # steps, template
    "gives": (1, _gives), "share": (1, _share), "three": (2, _three), "together": (2, _together),
    "boxes": (2, _boxes), "change": (2, _change), "twice": (2, _twice), "travel": (2, _travel),
    "days": (3, _days), "left": (3, _left), "costs": (3, _costs), "rows": (3, _rows),
}  # fmt: skip
_ASIDES = ("It is a sunny day at the {}. ", "They met at the {}. ", "The {} is not far away. ")


class WordProblems(NumberBenchmark):
    """Stories with a whole number as the answer. Groups are the number of steps.

    Half of the cells have a sentence in front that says nothing about the question.
    """

    name = "word-problems"
    says = "stories of 1 to 3 steps with small, medium and large numbers"

    def cells(self) -> Sequence[Cell]:
        """Templates by the size of their numbers, with and without an aside."""
        return [
            Cell(f"{name} {size}{aside}", f"{steps} steps" if steps > 1 else "1 step", _SIZES[size])
            for size in _SIZES
            for name, (steps, _) in _TEMPLATES.items()
            for aside in ("", " aside")
        ]

    def draw(self, rng: Rng, cell: Cell) -> Draft:
        """A story."""
        name, size, *aside = cell.template.split()
        low = 2 if size == "small" else _SIZES[size] // 4
        names = rng.sample(GIRLS + BOYS, 3)
        things = [plural for _, plural in rng.sample(THINGS, 2)]
        text, answer = _TEMPLATES[name][1](names, things, lambda: rng.between(low, cell.size))
        before = rng.pick(_ASIDES).format(rng.pick(PLACES)) if aside else ""
        return Draft(before + text, str(answer))
