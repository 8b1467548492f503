"""`truncation: auto`: the oldest turns are left out until a conversation fits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from coterie.hosting.errors import ApiError

T = TypeVar("T")
Placed = tuple[int, Mapping[str, Any]]
_STAYS = ("system", "developer")


def fitted(
    items: Sequence[Placed], attempt: Callable[[Sequence[Placed]], T], fits: Callable[[T], bool]
) -> tuple[T, list[str]]:
    """What `attempt` makes of the items without as few of the oldest turns as possible, and their ids.

    A turn is a user's message with all that follows, so that calls keep their results. System messages stay,
    and so does the last turn, which need not fit as `fits` says it, if `attempt` takes it.
    Errors: `ApiError` 400 `context_length_exceeded` when it does not; others of `attempt`.
    """
    starts = _starts(items)

    def tried(number: int) -> tuple[T, list[str]] | ApiError:
        end = starts[number] if number else 0
        gone = [place for place in range(end) if items[place][1].get("role") not in _STAYS]
        try:
            made = attempt([one for place, one in enumerate(items) if place not in {*gone}])
        except ApiError as error:
            if error.code != "context_length_exceeded":
                raise
            return error
        return made, [_name(*items[place]) for place in gone]

    last = len(starts) - 1
    low, best = 0, last  # turns left out: too few, enough
    found = tried(0)
    if last < 1 or (not isinstance(found, ApiError) and fits(found[0])):
        return _made(found)
    found = tried(last)
    while best - low > 1:
        middle = (low + best) // 2
        other = tried(middle)
        if isinstance(other, ApiError) or not fits(other[0]):
            low = middle
        else:
            best, found = middle, other
    return _made(found)


def _made(found: T | ApiError) -> T:
    if isinstance(found, ApiError):
        raise found
    return found


def _name(index: int, item: Mapping[str, Any]) -> str:
    """The id of an item; its place in the request where it has none."""
    return str(item.get("id") or f"/input/{index}")


def _starts(items: Sequence[Placed]) -> list[int]:
    """Where the turns begin; what comes before the first user belongs to the first turn."""
    users = [item.get("role") == "user" for _, item in items]
    starts = [place for place, user in enumerate(users) if user and (place == 0 or not users[place - 1])]
    return [0, *starts[1:]]
