"""Lists that clients read page by page."""

from __future__ import annotations

from collections.abc import Mapping

from coterie.hosting.errors import invalid


def limit_of(query: Mapping[str, str], default: int, most: int) -> int:
    """How many entries a page has, by the query's `limit`. Errors: `ApiError` 400."""
    limit = query.get("limit", str(default))
    if not (limit.isascii() and limit.isdigit() and len(limit) < 7 and 1 <= int(limit) <= most):
        raise invalid(f"limit: must be from 1 to {most}", "/limit")
    return int(limit)
