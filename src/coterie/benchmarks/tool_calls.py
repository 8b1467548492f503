"""Tool calls to simulated functions: one, several at once, none, and a house whose final state decides."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from coterie.benchmarks.calls import exactly, wrong_calls
from coterie.benchmarks.generated import Cell, Draft, GeneratedBenchmark
from coterie.benchmarks.home import ROOMS, State, after, draw_house, house_specs, house_tools
from coterie.benchmarks.item import BenchmarkItem, ItemReply, ItemVerdict
from coterie.primer.base import Rng
from coterie.primer.words import BOYS, CAPITALS, GIRLS, PLACES, WORDS
from coterie.sandbox.tools import Tool
from coterie.text.tools import function

_NO_CALL = "no call"
_CITIES = [city for city in CAPITALS.values() if " " not in city]
_DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
_TEXT, _WHOLE, _TRUTH = {"type": "string"}, {"type": "integer"}, {"type": "boolean"}


def _function(name: str, says: str, required: Sequence[str], **properties: Any) -> dict[str, Any]:
    parameters = {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }
    return function(name, says, parameters)


_SPECS: dict[str, dict[str, Any]] = {
    "weather": _function(
        "weather", "The weather of a city for a number of days.", ["city", "days"], city=_TEXT, days=_WHOLE,
        unit={"type": "string", "enum": ["celsius", "fahrenheit"], "description": "only if asked for"},
    ),
    "remind": _function(
        "remind", "Remind a person at a time of the day.", ["person", "hour", "minute"], person=_TEXT,
        hour=_WHOLE, minute=_WHOLE,
    ),
    "book_table": _function(
        "book_table", "Book a table.", ["place", "people", "day"], place=_TEXT, people=_WHOLE,
        day={"type": "string", "enum": _DAYS},
        outside={**_TRUTH, "description": "only if asked for"},
    ),
    "play": _function("play", "Play a song.", ["song", "volume"], song=_TEXT, volume=_WHOLE),
    "exchange": _function(
        "exchange", "Change money from one currency into another.", ["amount", "source", "target"],
        amount=_WHOLE, source={"type": "string", "enum": ["EUR", "USD", "JPY"]},
        target={"type": "string", "enum": ["EUR", "USD", "JPY"]},
    ),
}  # fmt: skip
_Wanted = tuple[str, dict[str, Any]]  # the request in words, the arguments


def _weather(rng: Rng) -> _Wanted:
    city, days = rng.pick(_CITIES), rng.between(2, 9)
    unit = rng.pick(("", "celsius", "fahrenheit"))
    said = f"tell me the weather in {city} for {days} days" + (f" in {unit}" if unit else "")
    return said, {"city": city, "days": days} | ({"unit": unit} if unit else {})


def _remind(rng: Rng) -> _Wanted:
    person, hour, minute = rng.pick(GIRLS + BOYS), rng.between(1, 23), rng.between(1, 59)
    return f"remind {person} at {hour}:{minute:02}", {"person": person, "hour": hour, "minute": minute}


def _table(rng: Rng) -> _Wanted:
    place, people, day = rng.pick(PLACES), rng.between(2, 9), rng.pick(_DAYS)
    outside = rng.chance(0.5)
    said = f"book a table at the place called {place} for {people} people on {day}"
    arguments = {"place": place, "people": people, "day": day} | ({"outside": True} if outside else {})
    return said + (", outside" if outside else ""), arguments


def _play(rng: Rng) -> _Wanted:
    song, volume = rng.pick(WORDS), rng.between(1, 10)
    return f"play the song {song} at volume {volume}", {"song": song, "volume": volume}


def _exchange(rng: Rng) -> _Wanted:
    amount = rng.between(10, 990)
    source, target = rng.sample(("EUR", "USD", "JPY"), 2)
    said = f"change {amount} {source} into {target}"
    return said, {"amount": amount, "source": source, "target": target}


_REQUESTS: dict[str, Callable[[Rng], _Wanted]] = {
    "weather": _weather, "remind": _remind, "book_table": _table, "play": _play, "exchange": _exchange,
}  # fmt: skip
_OTHER = (
    "Which word is the opposite of {}?", "Write one sentence about a {}.", "What rhymes with {}?",
    "How do you spell {}?", "Is {} a word of English?",
)  # fmt: skip


class ToolCalls(GeneratedBenchmark):
    """Requests with tools. Names and arguments are compared; for the house, the state after all calls.

    An optional argument that the request does not name must be left out. The state counts its changes, so
    that a change too many is wrong.
    """

    name = "tool-calls"
    says = "one call, several at once, none, and a house that has to end in the right state"
    form = ""
    guessable = 0.25  # the requests that need no call
    max_tokens = 512

    def cells(self) -> Sequence[Cell]:
        """Kinds by the function or the number of calls."""
        return [
            *(Cell(f"single {name}", "single") for name in _REQUESTS),
            *(Cell(f"parallel {count}", "parallel", count) for count in (2, 3, 4)),
            *(Cell(f"house {count}", "house", count) for count in (1, 2, 3)),
            Cell("condition", "house", 1),
            *(Cell(f"none {count}", "none", count) for count in (2, 5)),
        ]

    def draw(self, rng: Rng, cell: Cell) -> Draft:
        """A request, the functions that are there, and what has to be called."""
        kind, *rest = cell.template.split()
        if kind in ("house", "condition"):
            return _house(rng, cell.size, kind == "condition")
        names = rng.shuffled(list(_REQUESTS))
        if kind == "none":
            tools = tuple(_SPECS[name] for name in names[: cell.size])
            return Draft(rng.pick(_OTHER).format(rng.pick(WORDS)), _NO_CALL, tools=tools)
        wanted = [rest[0]] if kind == "single" else [rng.pick(names) for _ in range(cell.size)]
        drawn = [(name, *_REQUESTS[name](rng)) for name in wanted]
        said = "; ".join(text for _, text, _ in drawn)
        calls = [{"name": name, "arguments": arguments} for name, _, arguments in drawn]
        tools = tuple(_SPECS[name] for name in names)
        at_once = " Do all of it at once." if len(calls) > 1 else ""
        return Draft(f"Please {said}.{at_once}", calls, tools=tools)

    def judge(self, item: BenchmarkItem, reply: ItemReply) -> ItemVerdict:
        """Whether the calls are those that the request wants, each once and in any order."""
        shown = ", ".join(str(call.get("name", "")) for call in reply.calls)[:200] or None
        if item.answer == _NO_CALL:
            said = not reply.calls and bool(reply.text.strip())
            why = "" if said else "it calls a function" if reply.calls else "the reply is empty"
            return ItemVerdict(float(said), shown, why=why)
        if item.group == "house":
            state = after(item.facts["state"], reply.calls)
            why = state if isinstance(state, str) else _difference(state, item.answer)
        else:
            why = wrong_calls(reply.calls, item.answer, exactly, ordered=False)
        return ItemVerdict(float(not why), shown, unparsed=not reply.calls, why=why)

    def environment(self, item: BenchmarkItem) -> Sequence[Tool]:
        """The functions of the house, which begins in the item's state."""
        return house_tools(item.facts["state"]) if item.group == "house" else ()

    def oracle(self, item: BenchmarkItem) -> ItemReply | None:
        """The calls that are wanted."""
        if item.answer == _NO_CALL:
            return ItemReply(text="It is a word.")
        return ItemReply(calls=tuple(item.facts["calls"] if item.group == "house" else item.answer))

    def rewordings(self, item: BenchmarkItem) -> Sequence[str]:
        """The request in other frames."""
        frames = (
            "Request: {}", "{}\n", "### Request\n{}", "<request>\n{}\n</request>", "Hello! {}",
            "{} Thank you.",
            "Could you do this for me? {}", "Do this now. {}", "User request:\n\n{}",
        )  # fmt: skip
        return [frame.format(item.question) for frame in frames]


def _house(rng: Rng, count: int, condition: bool) -> Draft:
    """Changes of the house, each of which changes something; or one that depends on what is read."""
    state = draw_house(rng)
    tools = tuple(house_specs())
    if condition:
        room, degrees = rng.pick(ROOMS), state["degrees"] + rng.between(1, 6)
        said = (
            f"If the light in the {room} is on, turn it off. If it is off, set the heating to {degrees} "
            "degrees. Look first, and change nothing else."
        )
        change = (
            {"name": "set_light", "arguments": {"room": room, "on": False}}
            if state["lights"][room]
            else {"name": "set_heating", "arguments": {"degrees": degrees}}
        )
        calls = [{"name": "read_house", "arguments": {}}, change]
    else:
        drawn = rng.sample(_changes(rng, state), count)
        calls = [call for _, call in drawn]
        said = f"Please {'; '.join(text for text, _ in drawn)}. Change nothing else."
    final = after(state, calls)
    return Draft(said, final, tools=tools, facts={"state": state, "calls": calls})


def _changes(rng: Rng, state: State) -> list[tuple[str, dict[str, Any]]]:
    found: list[tuple[str, dict[str, Any]]] = []
    for room in ROOMS:
        on = not state["lights"][room]
        text = f"turn the light in the {room} {'on' if on else 'off'}"
        found.append((text, {"name": "set_light", "arguments": {"room": room, "on": on}}))
    degrees = state["degrees"] + rng.between(1, 6)
    text = f"set the heating to {degrees} degrees"
    found.append((text, {"name": "set_heating", "arguments": {"degrees": degrees}}))
    locked = not state["locked"]
    text = f"{'lock' if locked else 'unlock'} the front door"
    found.append((text, {"name": "set_door", "arguments": {"locked": locked}}))
    return found


def _difference(state: State, wanted: State) -> str:
    wrong = [name for name, value in wanted.items() if state.get(name) != value]
    return f"{wrong[0]} is {state.get(wrong[0])!r:.80}, not {wanted[wrong[0]]!r:.80}" if wrong else ""
