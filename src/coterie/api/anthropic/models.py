"""The list of models in Anthropic's form (https://platform.claude.com/docs/en/api/models-list)."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from coterie.hosting.errors import invalid
from coterie.protocol.paging import limit_of
from coterie.protocol.wire import JsonAnswer

Endpoint = Callable[[Request], Awaitable[Response]]
_PAGE = 20
_LARGEST_PAGE = 1000


def in_form_of_client(endpoint: Endpoint) -> Endpoint:
    """An endpoint that lists models, or shows one, answering Anthropic's clients in their form.

    They send the header `anthropic-version`.
    """

    async def answer(request: Request) -> Response:
        answered = await endpoint(request)
        if "anthropic-version" not in request.headers:
            return answered
        data = json.loads(bytes(answered.body))
        if "data" not in data:
            return JsonAnswer(_shown(data))
        return JsonAnswer(page([_shown(one) for one in data["data"]], request.query_params))

    return answer


def page(models: list[dict[str, Any]], query: Mapping[str, str]) -> dict[str, Any]:
    """One page of a list. Errors: `ApiError` 400 for a wrong `limit`, `after_id` or `before_id`."""
    limit = limit_of(query, _PAGE, _LARGEST_PAGE)
    ids = [one["id"] for one in models]
    for name in ("after_id", "before_id"):
        if name in query and query[name] not in ids:
            raise invalid(f"{name}: is no id of a model here")
    if "before_id" in query:
        before = models[: ids.index(query["before_id"])]
        shown, more = before[-limit:], len(before) > limit
    else:
        after = models[ids.index(query["after_id"]) + 1 if "after_id" in query else 0 :]
        shown, more = after[:limit], len(after) > limit
    first, last = (shown[0]["id"], shown[-1]["id"]) if shown else (None, None)
    return {"data": shown, "has_more": more, "first_id": first, "last_id": last}


def _shown(entry: Mapping[str, Any]) -> dict[str, Any]:
    created = datetime.fromtimestamp(entry["created"], UTC)
    return {
        "type": "model",
        "id": entry["id"],
        "display_name": entry["id"],
        "created_at": created.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "lifecycle": "active",
        "max_input_tokens": entry["max_model_len"],
        "max_tokens": entry["max_model_len"],
    }
