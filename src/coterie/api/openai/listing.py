"""Stored items as clients receive them: complete objects, page by page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from starlette.requests import Request

from coterie.hosting.errors import invalid, unsupported
from coterie.protocol.paging import page_after

_MOST, _DEFAULT = 100, 20  # items of a page, as at OpenAI
# What they ask to add is in the items already, or never was.
_NO_EFFECT = ("include", "include[]", "include_obfuscation")


def query_of(request: Request, known: Sequence[str]) -> dict[str, str]:
    """The query of a request. Errors: `ApiError` 400 for a parameter that is not read."""
    query = dict(request.query_params)
    for name in query.keys() - {*known, *_NO_EFFECT}:
        raise unsupported(f"the query parameter '{name[:40]}'", f"/{name[:40]}")
    return query


def page_of(request: Request, items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The part of the items (oldest first) that the request's query asks for, as OpenAI lists them.

    Errors: `ApiError` 400 for a wrong `limit`, `order` or `after`.
    """
    query = query_of(request, ("after", "limit", "order"))
    order = query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise invalid("/order: 'asc' or 'desc' was expected", "/order")
    listed = list(items) if order == "asc" else list(reversed(items))
    return list_of(*page_after(listed, query, _DEFAULT, _MOST))


def list_of(items: Sequence[Mapping[str, Any]], has_more: bool = False) -> dict[str, Any]:
    """A list object."""
    data = [shown(item) for item in items]
    ends = {"first_id": data[0]["id"] if data else "", "last_id": data[-1]["id"] if data else ""}
    return {"object": "list", "data": data, **ends, "has_more": has_more}


def shown(item: Mapping[str, Any]) -> dict[str, Any]:
    """An item with the fields that OpenAI's types ask for; what was sent may leave them out."""
    kind = item.get("type") or "message"
    whole = {**item, "type": kind, "status": item.get("status") or "completed"}
    if kind == "message":
        content, own = item.get("content"), item.get("role") == "assistant"
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content or []
        whole["content"] = [_part(part, own) for part in parts]
    if kind == "reasoning":
        whole["summary"] = item.get("summary") or []
    return whole


def _part(part: Mapping[str, Any], own: bool) -> dict[str, Any]:
    if part.get("type") not in ("text", "input_text", "output_text"):
        return dict(part)
    if own:
        return {"annotations": [], "logprobs": [], **part, "type": "output_text"}
    return {**part, "type": "input_text"}
