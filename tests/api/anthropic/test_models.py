"""The list of models in Anthropic's form, for clients that send `anthropic-version`."""

from __future__ import annotations

from datetime import datetime

import pytest

from coterie.api.anthropic.models import page
from coterie.hosting.errors import ApiError
from tests.serve.support import call

SPEAKS = {"anthropic-version": "2023-06-01"}
MODELS = [{"id": name} for name in "abcde"]


def test_the_listing(server):
    status, headers, answer = call(server.url, "GET", "/v1/models?limit=1000", headers=SPEAKS)
    assert status == 200 and headers["request-id"] == headers["x-request-id"]
    assert (answer["has_more"], answer["first_id"], answer["last_id"]) == (False, "tiny", "small")
    for one in answer["data"]:
        assert one["type"] == "model" and one["display_name"] == one["id"] and one["max_tokens"] == 512
        assert datetime.fromisoformat(one["created_at"]).tzinfo is not None
    assert call(server.url, "GET", "/v1/models/small", headers=SPEAKS)[2] == answer["data"][1]
    status, _, body = call(server.url, "GET", "/v1/models/none", headers=SPEAKS)
    assert (status, body["type"], body["error"]["type"]) == (404, "error", "not_found_error")
    plain = call(server.url, "GET", "/v1/models")
    assert plain[2]["object"] == "list" and "request-id" not in plain[1]


@pytest.mark.parametrize(
    ("query", "ids", "more"),
    [
        ({}, "abcde", False),
        ({"limit": "2"}, "ab", True),
        ({"limit": "2", "after_id": "b"}, "cd", True),
        ({"limit": "2", "after_id": "c"}, "de", False),
        ({"after_id": "e"}, "", False),
        ({"limit": "2", "before_id": "e"}, "cd", True),
        ({"limit": "9", "before_id": "c"}, "ab", False),
    ],
)
def test_pages(query, ids, more):
    found = page(MODELS, query)
    assert "".join(one["id"] for one in found["data"]) == ids and found["has_more"] is more
    assert (found["first_id"], found["last_id"]) == ((ids[0], ids[-1]) if ids else (None, None))


@pytest.mark.parametrize("query", [{"limit": "0"}, {"limit": "1001"}, {"limit": "x"}, {"after_id": "z"}])
def test_wrong_pages(query):
    with pytest.raises(ApiError):
        page(MODELS, query)
