"""What happens to a field: honoured, of no effect (then named), asking for nothing, or refused.

A field that would change the reply and cannot be honoured is a 400 that points to it. A field that cannot
change it is accepted and named in `x-coterie-ignored`. A field that asks for nothing (null; for the fields of
the table also false, "" or []) is as good as absent. `field_table` says which field is which, and why.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Collection, Mapping
from typing import Any, Literal

from coterie.api.common.field_table import EXTRAS
from coterie.api.common.field_table.entries import Extra
from coterie.api.common.field_table.requests import LABELS

MOST_NAMES = 64  # in one header; a request can make up any number of names
Fate = Literal["nothing", "named", "refused", "unknown"]


class Ignored(list[str]):
    """Names of fields without effect, each once, in the order of the request.

    `strict`: such a field is refused instead, but for the labels that the contract lists.
    """

    def __init__(self, names: Collection[str] = (), strict: bool = False) -> None:
        super().__init__(names)
        self.strict = strict

    def add(self, place: str, name: str) -> None:
        """Name a field of an object at `place` of the table."""
        path = place.partition(" ")[2] if place.startswith("/") else place
        shown = re.sub(r"[^\w.:/-]", "?", name, flags=re.ASCII)[:64]  # safe in a header
        full = f"{path}.{shown}".removeprefix(".")
        if len(self) >= MOST_NAMES:
            full = f"{path}.*".removeprefix(".")
        if full not in self and len(self) < 2 * MOST_NAMES:
            self.append(full)


def asks_for_nothing(value: Any) -> bool:
    """Whether a value is the same as none. `{}` is not: it may turn a feature on."""
    return value is None or value is False or value in ("", [])


def sift(
    place: str, data: Mapping[str, Any], known: Collection[str], named: Ignored | None
) -> dict[str, Any]:
    """The fields of an object at `place` that are left to read: the `known` ones, and any to be refused.

    Names of fields without effect are appended to `named`.
    """
    extra = EXTRAS.get(place, _NONE)
    left: dict[str, Any] = {}
    for name, value in data.items():
        fate: Fate | None = None if name in known else fate_of(extra, name, data, known)
        if fate == "named" and named is not None and not (named.strict and name not in LABELS):
            named.add(place, name)
        elif fate in (None, "refused", "unknown", "named"):
            left[name] = value
    return left


def fate_of(extra: Extra, name: str, data: Mapping[str, Any], known: Collection[str]) -> Fate:
    """What happens to the field `name` of an object that is none of the `known` ones."""
    value = data[name]
    listed = name in extra
    if value is None or (listed and asks_for_nothing(value)):
        return "nothing"
    if name in extra.refused:
        return "refused"
    if name in extra.neutral:
        return "nothing" if value in extra.neutral[name][0] else "refused"
    if name in extra.same:
        return "named" if _equal(value, data.get(extra.same[name])) else "refused"
    if name in extra.repeats:
        return "named" if any(data.get(other) is not None for other in extra.repeats[name]) else "refused"
    if listed:
        return "named"
    if not extra.is_open or closest(name, frozenset(known).difference(data), 0.85):
        return "unknown"
    return "nothing" if asks_for_nothing(value) else "named"


def why_refused(place: str, name: str) -> str | None:
    """What a refused field would need, if the table says so; the start of "... is not supported here"."""
    extra = EXTRAS.get(place, _NONE)
    if name in extra.neutral:
        return extra.neutral[name][1]
    if name in extra.same:
        return f"'{name}' (send '{extra.same[name]}')"
    if name in extra.repeats:
        return f"'{name}' in place of '{extra.repeats[name][0]}'"
    return extra.refused.get(name)


def has_no_effect(place: str, name: str) -> bool:
    """Whether the table names the field, whatever its value."""
    return EXTRAS.get(place, _NONE).label(name) is not None


@functools.lru_cache(maxsize=4096)
def closest(name: str, known: frozenset[str], cutoff: float = 0.6) -> str | None:
    """The known name that was probably meant."""
    found = difflib.get_close_matches(name[:64], sorted(known), n=1, cutoff=cutoff)
    return found[0] if found else None


def _equal(value: Any, ours: Any) -> bool:
    """Whether two fields say the same; one text is as good as a list of it."""
    return value == ours or (isinstance(ours, str) and value == [ours]) or ([value] == ours)


_NONE = Extra()
