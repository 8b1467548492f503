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
from typing import Any

from coterie.hosting.errors import ApiError
from coterie.protocol.field_table import EXTRAS
from coterie.protocol.field_table.entries import Extra
from coterie.protocol.field_table.requests import LABELS

NO_EFFECT = "has no effect here, and --strict refuses such fields"
MOST_NAMES = 64  # in one header; a request can make up any number of names


class Ignored(list[str]):
    """Names of fields without effect, each once, in the order of the request.

    `strict`: such a field is refused instead, but for the labels that the contract lists.
    """

    def __init__(self, names: Collection[str] = (), strict: bool = False) -> None:
        super().__init__(names)
        self.strict = strict

    def add(self, place: str, name: str) -> None:
        """Name a field of an object at `place` of the table. Errors: `ApiError` 400 for a strict server."""
        path = place.partition(" ")[2] if place.startswith("/") else place
        shown = re.sub(r"[^\w.:/-]", "?", name, flags=re.ASCII)[:64]  # safe in a header
        full = f"{path}.{shown}".removeprefix(".")
        if self.strict and name not in LABELS:
            pointer = "/" + full.replace(".", "/")
            raise ApiError(400, f"{pointer}: {NO_EFFECT}", "unsupported_parameter", pointer)
        if len(self) >= MOST_NAMES:
            full = f"{path}.*".removeprefix(".")
        if full not in self and len(self) < 2 * MOST_NAMES:
            self.append(full)


def asks_for_nothing(value: Any) -> bool:
    """Whether a value is the same as none. `{}` is not: it may turn a feature on."""
    return value is None or value is False or value in ("", [])


class UnreadField(ValueError):
    """A field that would change the reply, or that nobody knows. `reason`: the rest of a message."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.name, self.reason = name, reason


def sift(
    place: str, data: Mapping[str, Any], known: Collection[str], named: Ignored | None
) -> dict[str, Any]:
    """The `known` fields of an object at `place` of the table; names of fields without effect go to `named`.

    Errors: `UnreadField`.
    """
    extra = EXTRAS.get(place, _NONE)
    left: dict[str, Any] = {}
    for name, value in data.items():
        if name in known:
            left[name] = value
        elif value is not None and _is_named(extra, name, data, known) and named is not None:
            if named.strict and name not in LABELS:
                raise UnreadField(name, NO_EFFECT)
            named.add(place, name)
    return left


def _is_named(extra: Extra, name: str, data: Mapping[str, Any], known: Collection[str]) -> bool:
    """Whether a field is to be named, else it asks for nothing. Errors: `UnreadField`."""
    value, needs = data[name], None
    if name in extra:
        if asks_for_nothing(value):
            return False
        if name in extra.neutral:
            values, needs = extra.neutral[name]
            if value in values:
                return False
        elif name in extra.same:
            ours = extra.same[name]
            needs = None if _equal(value, data.get(ours)) else f"'{name}' (send '{ours}')"
        elif name in extra.repeats:
            others = extra.repeats[name]
            found = any(data.get(other) is not None for other in others)
            needs = None if found else f"'{name}' without '{others[0]}'"
        else:
            needs = extra.refused.get(name)
        if needs is not None:
            raise UnreadField(name, f"{needs} is not supported here")
        return True
    close = closest(name, frozenset(known).difference(data if extra.is_open else ()), extra.is_open)
    if close is not None or not extra.is_open:
        raise UnreadField(name, "unknown field" + (f" (did you mean '{close}'?)" if close else ""))
    return not asks_for_nothing(value)


@functools.lru_cache(maxsize=4096)
def closest(name: str, known: frozenset[str], surely: bool = False) -> str | None:
    """The known name that was probably meant, or `surely`."""
    found = difflib.get_close_matches(name[:64], sorted(known), n=1, cutoff=0.85 if surely else 0.6)
    return found[0] if found else None


def _equal(value: Any, ours: Any) -> bool:
    """Whether two fields say the same; one text is as good as a list of it."""
    return value == ours or (isinstance(ours, str) and value == [ours]) or ([value] == ours)


_NONE = Extra()
