"""Comparing tool calls with what is wanted: names, arguments, several at once."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from coterie.config.json_text import JsonError, parse_json

Call = Mapping[str, Any]  # name, arguments
Matches = Callable[[Call, Any], str]  # what is wrong with a call that should be the wanted one; "" if nothing
_MOST = 64  # calls of a reply that are compared
_LEFT_OUT = re.compile(r"[ ,./_*^-]")


def arguments_of(call: Call) -> dict[str, Any] | None:
    """The arguments of a call; None where they are not an object."""
    given = call.get("arguments", {})
    if isinstance(given, str):
        try:
            given = parse_json(given) if given.strip() else {}
        except JsonError:
            return None
    return dict(given) if isinstance(given, Mapping) else None


def wrong_calls(calls: Sequence[Call], wanted: Sequence[Any], matches: Matches, ordered: bool) -> str:
    """What is wrong with the calls of a reply, in one line; nothing where each wanted one is made once.

    `ordered`: they have to come in the order of `wanted`.
    """
    if len(calls) != len(wanted):
        return f"{len(calls)} calls, not {len(wanted)}"
    if len(calls) > _MOST:
        return f"more than {_MOST} calls"
    if ordered:
        faults = (matches(call, one) for call, one in zip(calls, wanted, strict=True))
        return next((fault for fault in faults if fault), "")
    fits = [[not matches(call, one) for call in calls] for one in wanted]
    if _assigned(fits):
        return ""
    missing = next((place for place, row in enumerate(fits) if not any(row)), 0)
    return matches(calls[min(missing, len(calls) - 1)], wanted[missing]) or "one call stands for two"


def _assigned(fits: Sequence[Sequence[bool]]) -> bool:
    """Whether each row can have a column to itself (augmenting paths)."""
    holder: dict[int, int] = {}

    def place(row: int, tried: set[int]) -> bool:
        for column, fit in enumerate(fits[row]):
            if fit and column not in tried:
                tried.add(column)
                if column not in holder or place(holder[column], tried):
                    holder[column] = row
                    return True
        return False

    return all(place(row, set()) for row in range(len(fits)))


def exactly(call: Call, wanted: Call) -> str:
    """Whether a call has the wanted name and arguments, texts up to case and spaces at the ends."""
    if call.get("name") != wanted["name"]:
        return f"calls {call.get('name')!r:.60}, not {wanted['name']}"
    given = arguments_of(call)
    if given is None:
        return f"the arguments of {wanted['name']} are not an object"
    if given.keys() != wanted["arguments"].keys():
        return f"{wanted['name']} has the arguments {sorted(given)!r:.80}"
    for name, value in wanted["arguments"].items():
        if not _alike(given[name], value):
            return f"{wanted['name']}: {name} is {given[name]!r:.60}, not {value!r:.60}"
    return ""


def _alike(given: Any, wanted: Any) -> bool:
    if isinstance(wanted, str):
        return isinstance(given, str) and given.strip().casefold() == wanted.strip().casefold()
    if isinstance(wanted, bool) or isinstance(given, bool):
        return given is wanted
    if isinstance(wanted, list):
        return isinstance(given, list) and len(given) == len(wanted) and all(map(_alike, given, wanted))
    return type(given) in (int, float) and given == wanted if isinstance(wanted, int | float) else False


def allowed(call: Call, wanted: Mapping[str, Mapping[str, list[Any]]]) -> str:
    """Whether a call is one of those that BFCL allows: `{name: {argument: [values]}}`.

    An argument with "" among its values may be left out. Texts are compared without case, spaces and the
    signs , . / - _ * ^ as in BFCL. Types are strict: 5 is a float too, 5.0 is not a whole number.
    """
    ((name, values),) = wanted.items()
    if call.get("name") != name:
        return f"calls {call.get('name')!r:.60}, not {name}"
    given = arguments_of(call)
    if given is None:
        return f"the arguments of {name} are not an object"
    for argument, value in given.items():
        if argument not in values:
            return f"{name}: there is no argument {argument!r:.60}"
        if not any(_like(value, one) for one in values[argument]):
            return f"{name}: {argument} is {value!r:.60}"
    missing = [argument for argument, known in values.items() if argument not in given and "" not in known]
    return f"{name}: {missing[0]} is missing" if missing else ""


def _like(given: Any, wanted: Any) -> bool:
    if isinstance(given, str) and isinstance(wanted, str):
        return _plain(given) == _plain(wanted)
    if isinstance(given, bool) or isinstance(wanted, bool):
        return given is wanted
    if isinstance(wanted, float) and isinstance(given, int | float):
        return float(given) == wanted
    if isinstance(wanted, list) and isinstance(given, list):
        return len(given) == len(wanted) and all(map(_like, given, wanted))
    if isinstance(wanted, dict) and isinstance(given, dict):
        return _like_object(given, wanted)
    return type(given) is type(wanted) and bool(given == wanted)


def _like_object(given: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Each value of a wanted object is a list of those that are allowed."""
    values = {key: value if isinstance(value, list) else [value] for key, value in wanted.items()}
    return given.keys() <= values.keys() and all(
        any(_like(given[key], one) for one in known) if key in given else "" in known
        for key, known in values.items()
    )


def _plain(text: str) -> str:
    return _LEFT_OUT.sub("", text).lower().replace("'", '"')
