"""Structured output: facts of a passage as JSON that fits a schema and says what the passage says."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from coterie.benchmarks.generated import Cell, Draft, GeneratedBenchmark
from coterie.benchmarks.item import BenchmarkItem, ItemReply, ItemVerdict
from coterie.benchmarks.scorers import json_verdict, same_json
from coterie.primer.base import Rng
from coterie.primer.words import BOYS, COLOURS, GIRLS, JOBS, PLACES, THINGS, TREASURES

_JSON_FORM = "Reply with one JSON value that fits this schema, and nothing else:"
_Drawn = tuple[str, str, dict[str, Any], Any]  # passage, question, schema, value


def _object(**properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


_TEXT, _WHOLE, _TRUTH = {"type": "string"}, {"type": "integer"}, {"type": "boolean"}


def _person(rng: Rng, size: int) -> _Drawn:
    name, job, age = rng.pick(GIRLS + BOYS), rng.pick(JOBS), rng.between(20, 70)
    place, married = rng.pick(PLACES), rng.chance(0.5)
    passage = (
        f"{name} is {age} years old and works as a {job} at the {place}. {name} is "
        f"{'' if married else 'not '}married."
    )
    facts = {"name": name, "age": age, "job": job, "married": married}
    schema = _object(name=_TEXT, age=_WHOLE, job=_TEXT, married=_TRUTH)
    return passage, "Who is described?", schema, facts


def _shopping(rng: Rng, size: int) -> _Drawn:
    things = [plural for _, plural in rng.sample(THINGS, size)]
    rows = [{"item": thing, "count": rng.between(2, 20), "price": rng.between(1, 99)} for thing in things]
    passage = " ".join(
        f"There are {row['count']} {row['item']} at {row['price']} coins each." for row in rows
    )
    schema = {"type": "array", "items": _object(item=_TEXT, count=_WHOLE, price=_WHOLE)}
    return passage, "List everything in the order of the text.", schema, rows


def _nested(rng: Rng, size: int) -> _Drawn:
    names = rng.sample(GIRLS + BOYS, size)
    people = {name: [rng.pick(TREASURES), rng.pick(COLOURS)] for name in names}
    place = rng.pick(PLACES)
    passage = f"At the {place}: " + " ".join(f"{n} has a {c} {t}." for n, (t, c) in people.items())
    owned = _object(thing=_TEXT, colour={"enum": list(COLOURS)})
    schema = _object(place=_TEXT, people={"type": "object", "additionalProperties": owned})
    facts = {"place": place, "people": {n: {"thing": t, "colour": c} for n, (t, c) in people.items()}}
    return passage, "Who has what? Use the names as keys.", schema, facts


def _totals(rng: Rng, size: int) -> _Drawn:
    names = rng.sample(GIRLS + BOYS, size)
    counts = [rng.between(2, 40) for _ in names]
    thing = rng.pick(THINGS)[1]
    passage = " ".join(f"{n} has {c} {thing}." for n, c in zip(names, counts, strict=True))
    most = max(counts)
    facts = {"total": sum(counts), "most": most, "names": names}
    schema = _object(total=_WHOLE, most=_WHOLE, names={"type": "array", "items": _TEXT})
    ask = f"How many {thing} are there in total, what is the largest number, and which names are there?"
    return passage, ask, schema, facts


_TEMPLATES: dict[str, tuple[Callable[[Rng, int], _Drawn], tuple[int, ...]]] = {
    "person": (_person, (1,)),
    "shopping": (_shopping, (2, 4, 8)),
    "nested": (_nested, (2, 4, 8)),
    "totals": (_totals, (2, 4, 8)),
}


class Structured(GeneratedBenchmark):
    """The reply is one JSON value: it parses, fits the schema, and holds what the passage says."""

    name = "structured"
    says = "facts of a passage as JSON that fits a given schema"
    form = ""

    def cells(self) -> Sequence[Cell]:
        """Templates by the number of entries."""
        return [
            Cell(f"{name} {size}", name, size) for name, (_, sizes) in _TEMPLATES.items() for size in sizes
        ]

    def draw(self, rng: Rng, cell: Cell) -> Draft:
        """A passage, a schema, and the value."""
        passage, question, schema, value = _TEMPLATES[cell.group][0](rng, cell.size)
        said = f"{passage}\n{question}\n\n{_JSON_FORM}\n{json.dumps(schema)}"
        return Draft(said, value, passage=passage, facts={"schema": schema})

    def judge(self, item: BenchmarkItem, reply: ItemReply) -> ItemVerdict:
        """Strict: the reply is the JSON. Lenient: it stands in a block or between other words."""
        schema = item.facts["schema"]
        return json_verdict(item, reply, schema, lambda value: same_json(value, item.answer))

    def rewordings(self, item: BenchmarkItem) -> Sequence[str]:
        """Other frames, and the schema in other places and layouts."""
        body, _, schema = item.question.partition(f"\n\n{_JSON_FORM}\n")
        wide = json.dumps(item.facts["schema"], indent=2)
        frames = (
            "{form}\n{schema}\n\n{body}", "Text: {body}\n\n{form}\n{schema}", "{body}\n{form}\n{wide}",
            "### Text\n{body}\n\n### Form\n{form}\n{schema}", "<text>\n{body}\n</text>\n{form}\n{schema}",
            "{body}\n\nWrite the answer as JSON of this schema and write nothing else:\n{schema}",
            "{form}\n{wide}\n\n{body}", "Read this.\n\n{body}\n\n{form}\n{schema}",
        )  # fmt: skip
        return [frame.format(body=body, form=_JSON_FORM, schema=schema, wide=wide) for frame in frames]

    def oracle(self, item: BenchmarkItem) -> ItemReply | None:
        """The value as JSON."""
        return ItemReply(text=json.dumps(item.answer, ensure_ascii=False))
