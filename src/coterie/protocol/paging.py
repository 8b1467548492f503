"""Lists that clients read page by page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from coterie.hosting.errors import invalid

T = TypeVar("T", bound=Mapping[str, Any])


def page_after(items: Sequence[T], query: Mapping[str, str], default: int, most: int) -> tuple[list[T], bool]:
    """The items of a page, by the query's `after` (an `id`) and `limit`, and whether more follow.

    Errors: `ApiError` 400.
    """
    limit, after = limit_of(query, default, most), query.get("after")
    places = [place for place, item in enumerate(items) if item["id"] == after] if after else [-1]
    if not places:
        raise invalid(f"/after: no item of this list has the id '{str(after)[:80]}'", "/after")
    rest = items[places[0] + 1 :]
    return list(rest[:limit]), len(rest) > limit


def limit_of(query: Mapping[str, str], default: int, most: int) -> int:
    """How many entries a page has, by the query's `limit`. Errors: `ApiError` 400."""
    limit = query.get("limit", str(default))
    if not (limit.isascii() and limit.isdigit() and len(limit) < 7 and 1 <= int(limit) <= most):
        raise invalid(f"/limit: must be from 1 to {most}", "/limit")
    return int(limit)
