"""Long contexts: needles, variables and counting, on a grid of length and depth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import ClassVar

from pydantic import Field, field_validator

from coterie.benchmarks.generated import AnswerBenchmark, Cell, Draft, GeneratedSettings
from coterie.benchmarks.item import BenchmarkItem
from coterie.primer.base import Rng
from coterie.primer.words import ANIMALS, BOYS, COLOURS, GIRLS, PLACES, TIMES, TRAITS, WEATHER, WORDS

_DEPTHS = (0, 25, 50, 75, 100)  # percent of the text that stands before the needle
_KINDS = ("needle", "needles", "distractors", "variables", "counting")
_LONGEST = 2_000_000


class LongContextSettings(GeneratedSettings):
    """`lengths`: of the texts, in characters (about four of an English text make a token)."""

    n: int = Field(100, ge=1, le=100_000)
    lengths: list[int] = Field(default=[1000, 2000, 4000, 8000])

    @field_validator("lengths")
    @classmethod
    def _usable(cls, lengths: list[int]) -> list[int]:
        if not lengths or len(set(lengths)) != len(lengths):
            raise ValueError("give different lengths in characters, such as [4000, 16000]")
        if any(not 300 <= length <= _LONGEST for length in lengths):
            raise ValueError(f"a length is from 300 to {_LONGEST:,} characters")
        return lengths


class LongContext(AnswerBenchmark):
    """A question about a long text. Groups are the lengths; the cell names kind and depth.

    `needle`: one number stands in the text. `needles`: three of one thing's numbers, all asked for.
    `distractors`: numbers of other things stand there too. `variables`: an assignment is followed through a
    chain. `counting`: the word that stands there most often in a list of lines.
    """

    name = "long-context"
    says = "needles, variables and counting in texts of given lengths, at five depths"
    settings_type: ClassVar[type[GeneratedSettings]] = LongContextSettings
    cluster_key = "kind, depth and length"

    def cells(self) -> Sequence[Cell]:
        """Kind by depth by length; depth has no meaning for `needles` and `counting`."""
        assert isinstance(self.settings, LongContextSettings)
        return [
            Cell(f"{kind} {depth}", f"{length} characters", length)
            for length in self.settings.lengths
            for depth in _DEPTHS
            for kind in _KINDS
            if depth == 0 or kind not in ("needles", "counting")
        ]

    def draw(self, rng: Rng, cell: Cell) -> Draft:
        """A text of the cell's length and its question."""
        kind, depth = cell.template.split()
        lines, question, answer = _DRAWS[kind](rng)
        passage = _hidden(rng, lines, cell.size, int(depth), spread=kind != "needle")
        return Draft(f"{passage}\n\n{question}", answer, passage=passage)

    def equal(self, item: BenchmarkItem, found: str) -> bool:
        """The same text, or the same parts in any order where several are asked for."""
        if "," in item.answer:
            return sorted(part.strip() for part in found.split(",")) == sorted(item.answer.split(", "))
        return found.strip().removesuffix(".") == item.answer


def _sentence(rng: Rng) -> str:
    """A sentence without a number, which answers no question."""
    name, animal = rng.pick(GIRLS + BOYS), rng.pick(ANIMALS)
    kinds = (
        lambda: f"{rng.pick(TIMES)} {name} went to the {rng.pick(PLACES)}.",
        lambda: f"{name} was {rng.pick(TRAITS)} and had a {rng.pick(COLOURS)} {animal}.",
        lambda: f"The {animal} slept at the {rng.pick(PLACES)} all day.",
        lambda: f"It was a {rng.pick(WEATHER)} day, and {name} sang about a {rng.pick(COLOURS)} {animal}.",
        lambda: f"Nobody at the {rng.pick(PLACES)} had seen the {animal} before.",
    )
    return rng.pick(kinds)()


def _hidden(rng: Rng, lines: Sequence[str], length: int, depth: int, spread: bool) -> str:
    """Sentences with `lines` among them, in order, `length` characters or less.

    The first line stands at `depth`, in percent of the text. With `spread` the others follow at random
    places behind it; where it stands at the end, all stand there.
    """
    filler: list[str] = []
    room = length - sum(len(line) + 1 for line in lines)
    while room > 0:
        sentence = _sentence(rng)
        room -= len(sentence) + 1
        if room >= 0:
            filler.append(sentence)
    first = len(filler) * depth // 100
    places = [first, *sorted(rng.between(first, len(filler)) for _ in lines[1:])] if spread else [first]
    for place, line in reversed(list(zip(places, lines, strict=True))):
        filler.insert(place, line)
    return " ".join(filler)


_Drawn = tuple[list[str], str, str]  # lines to hide in order, question, answer


def _needle(rng: Rng) -> _Drawn:
    key, value = rng.pick(WORDS), str(rng.between(100_000, 999_999))
    line = f"The special number of {key} is {value}."
    return [line], f"What is the special number of {key} in the text?", value


def _needles(rng: Rng) -> _Drawn:
    key = rng.pick(WORDS)
    values: list[str] = []
    while len(values) < 3:
        value = str(rng.between(100_000, 999_999))
        if value not in values:
            values.append(value)
    lines = [f"A special number of {key} is {value}." for value in values]
    asks = f"Which three special numbers of {key} stand in the text? Write them with commas between them."
    return lines, asks, ", ".join(values)


def _distractors(rng: Rng) -> _Drawn:
    keys = rng.sample(WORDS, 5)
    values = [str(rng.between(100_000, 999_999)) for _ in keys]
    lines = [f"The special number of {key} is {value}." for key, value in zip(keys, values, strict=True)]
    return lines, f"What is the special number of {keys[0]} in the text?", values[0]


def _variables(rng: Rng) -> _Drawn:
    names = [f"{rng.pick(WORDS).upper()}{number}" for number in range(1, 9)]
    value = str(rng.between(10_000, 99_999))
    chain, others = names[:4], names[4:]
    lines = [f"Let {chain[0]} be {value}."]
    lines += [f"Let {later} be the same as {earlier}." for earlier, later in pairwise(chain)]
    lines.insert(1, f"Let {others[0]} be {rng.between(10_000, 99_999)}.")
    lines.insert(3, f"Let {others[1]} be the same as {others[0]}.")
    return lines, f"Which number is {chain[-1]}?", value


def _counting(rng: Rng) -> _Drawn:
    words = rng.sample(WORDS, 5)
    most = rng.between(7, 9)
    counts = [most, *(rng.between(2, most - 2) for _ in words[1:])]
    lines = [f"Note: {word}." for word, count in zip(words, counts, strict=True) for _ in range(count)]
    asks = "Which word stands behind 'Note:' most often in the text?"
    return rng.shuffled(lines), asks, words[0]


_DRAWS: dict[str, Callable[[Rng], _Drawn]] = {
    "needle": _needle, "needles": _needles, "distractors": _distractors, "variables": _variables,
    "counting": _counting,
}  # fmt: skip
