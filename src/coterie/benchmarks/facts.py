"""Questions with choices about facts of the embedded corpus and of short passages."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from coterie.benchmarks.generated import Cell, ChoiceBenchmark, Draft, listed
from coterie.primer.base import Rng
from coterie.primer.functions import evaluate
from coterie.primer.words import BOYS, CAPITALS, COLOURS, GIRLS, PLACES, THINGS, TREASURES, WORDS
from coterie.tasks.compositions import draw_chain

_DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
_MONTHS = "January February March April May June July August September October November December".split()
_CHOICES = 4
_Question = tuple[str, str, str, list[str]]  # passage, question, answer, other choices


def _capital(rng: Rng, size: int) -> _Question:
    country, *others = rng.sample(list(CAPITALS), _CHOICES)
    return "", f"What is the capital of {country}?", CAPITALS[country], [CAPITALS[one] for one in others]


def _country(rng: Rng, size: int) -> _Question:
    country, *others = rng.sample(list(CAPITALS), _CHOICES)
    return "", f"Of which country is {CAPITALS[country]} the capital?", country, others


def _plural(rng: Rng, size: int) -> _Question:
    one, *others = rng.sample(THINGS, _CHOICES)
    return "", f"What is more than one {one[0]} called?", one[1], [other[1] for other in others]


def _after(rng: Rng, size: int) -> _Question:
    names = _DAYS if rng.chance(0.5) else _MONTHS
    step = rng.between(1, 3)
    start = rng.between(0, len(names) - 1)
    kind = "day" if names is _DAYS else "month"
    plural = kind if step == 1 else f"{kind}s"
    right = names[(start + step) % len(names)]
    others = rng.sample([name for name in names if name not in (right, names[start])], _CHOICES - 1)
    return "", f"Which {kind} comes {step} {plural} after {names[start]}?", right, others


def _largest(rng: Rng, size: int) -> _Question:
    values: list[int] = []
    while len(values) < _CHOICES:
        value = rng.between(10 ** (size - 1), 10**size - 1)
        if value not in values:
            values.append(value)
    right = max(values)
    return "", "Which of these numbers is the largest?", str(right), [str(v) for v in values if v != right]


def _value(rng: Rng, size: int) -> _Question:
    kind = rng.pick(("list", "str"))
    value = rng.pick(WORDS) if kind == "str" else [rng.between(0, 9) for _ in range(4)]
    calls = evaluate(draw_chain(rng, kind, size, value), value)
    call, answer = calls[-1]
    others: list[str] = []
    while len(others) < _CHOICES - 1:
        wrong = evaluate(draw_chain(rng, kind, size, value), value)[-1][1]
        if wrong not in (answer, *others):
            others.append(wrong)
    return "", f"What is {call}?", answer, others


def _holding(rng: Rng, size: int) -> _Question:
    names, things = rng.sample(GIRLS + BOYS, size), rng.sample(TREASURES, max(size, _CHOICES))
    colours = [rng.pick(COLOURS) for _ in names]
    passage = " ".join(f"{n} has a {c} {t}." for n, c, t in zip(names, colours, things, strict=False))
    asked = rng.between(0, size - 1)
    return passage, f"What does {names[asked]} have?", things[asked], _others(rng, things, asked)


def _where(rng: Rng, size: int) -> _Question:
    names, places = rng.sample(GIRLS + BOYS, size), rng.sample(PLACES, max(size, _CHOICES))
    passage = " ".join(f"{name} is at the {place}." for name, place in zip(names, places, strict=False))
    asked = rng.between(0, size - 1)
    return (
        passage,
        f"Where is {names[asked]}?",
        f"at the {places[asked]}",
        [f"at the {place}" for place in _others(rng, places, asked)],
    )


def _others(rng: Rng, items: Sequence[str], right: int) -> list[str]:
    return rng.sample([item for place, item in enumerate(items) if place != right], _CHOICES - 1)


_TEMPLATES: dict[str, tuple[str, Callable[[Rng, int], _Question], tuple[int, ...]]] = {
    "capital": ("known facts", _capital, (1,)),
    "country": ("known facts", _country, (1,)),
    "plural": ("language", _plural, (1,)),
    "after": ("order", _after, (1,)),
    "largest": ("order", _largest, (2, 3, 4, 5)),
    "value": ("functions", _value, (1, 2, 3)),
    "holding": ("passages", _holding, (2, 4, 8, 12)),
    "where": ("passages", _where, (2, 4, 8, 12)),
}


class FactChoices(ChoiceBenchmark):
    """Four choices each, of which log-probabilities choose; one in four is right by chance.

    Wrong choices are of the kind of the right one: they answer other questions of the same template.
    """

    name = "facts"
    says = "four choices about capitals, plurals, order, function values and short passages"

    def cells(self) -> Sequence[Cell]:
        """Templates by size."""
        return [
            Cell(f"{name} {size}", group, size)
            for name, (group, _, sizes) in _TEMPLATES.items()
            for size in sizes
        ]

    def draw(self, rng: Rng, cell: Cell) -> Draft:
        """A question with its choices in random order."""
        _, template, _ = _TEMPLATES[cell.template.split()[0]]
        passage, question, answer, others = template(rng, cell.size)
        choices = rng.shuffled([answer, *others])
        said = f"{passage}\n{question}" if passage else question
        return Draft(listed(said, choices), choices.index(answer), tuple(choices), passage)
