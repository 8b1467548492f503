"""Stored responses through the real client: read, list, delete."""

from __future__ import annotations

import openai
import pytest
from openai.types.responses.response_item import ResponseItem
from pydantic import TypeAdapter

from tests.api.openai.test_memory import SHORT
from tests.serve.support import call


def test_a_response_comes_back_as_it_was_sent(client):
    sent = client.responses.create(input="Hello", **SHORT)
    assert client.responses.retrieve(sent.id) == sent
    with client.responses.stream(input="Hello", **SHORT) as stream:
        final = list(stream)[-1].response
    kept = client.responses.retrieve(final.id).model_dump()
    assert kept == {name: value for name, value in final.model_dump().items() if name in kept}


def test_items_are_listed_page_by_page(client):
    items = [{"role": "user", "content": f"number {number}"} for number in range(5)]
    first = client.responses.create(input=items, **SHORT)
    second = client.responses.create(
        input=[{"role": "assistant", "content": "so"}, {"role": "user", "content": "last"}],
        previous_response_id=first.id, **SHORT,
    )  # fmt: skip
    listed = list(client.responses.input_items.list(second.id, order="asc", limit=3))
    for item in listed:
        TypeAdapter(ResponseItem).validate_python(item.model_dump(warnings=False))
    texts = [item.content[0].text for item in listed]
    assert texts == [*(f"number {number}" for number in range(5)), first.output_text, "so", "last"]
    assert listed[5].id == first.output[0].id and len({item.id for item in listed}) == 8
    newest = client.responses.input_items.list(second.id, limit=2)
    assert [item.content[0].text for item in newest.data] == ["last", "so"] and newest.has_more
    for wrong in ({"limit": 0}, {"limit": 101}, {"order": "up"}, {"after": "x"}, {"extra_query": {"by": 1}}):
        with pytest.raises(openai.BadRequestError):
            client.responses.input_items.list(second.id, **wrong)


def test_a_deleted_response_is_gone_with_its_items(client):
    first = client.responses.create(input="Hello", **SHORT)
    second = client.responses.create(input="Hello", previous_response_id=first.id, **SHORT)
    client.responses.delete(first.id)
    for attempt, status in (
        (lambda: client.responses.retrieve(first.id), 404),
        (lambda: client.responses.delete(first.id), 404),
        (lambda: client.responses.input_items.list(first.id), 404),
        (lambda: client.responses.input_items.list(second.id), 404),
        (lambda: client.responses.create(input="x", previous_response_id=second.id, **SHORT), 400),
    ):
        with pytest.raises(openai.APIStatusError, match=f"{first.id}' not found") as caught:
            attempt()
        assert caught.value.status_code == status
    assert client.responses.retrieve(second.id).output_text == second.output_text


def test_strange_ids_are_not_found(server):
    for id in ("%00", "%ff", "a%2fb", "'; DROP TABLE entries; --".replace(" ", "%20"), "x" * 5000):
        for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/input_items"), ("POST", "/cancel")):
            assert call(server.url, method, f"/v1/responses/{id}{path}")[0] == 404
    body = {"model": "tiny", "input": "x", "previous_response_id": "\0' OR 1=1"}
    assert call(server.url, "POST", "/v1/responses", body)[0] == 400


def test_what_needs_the_background_is_refused(client):
    made = client.responses.create(input="Hello", **SHORT)
    with pytest.raises(openai.BadRequestError, match="Cannot cancel a synchronous response"):
        client.responses.cancel(made.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.cancel("resp_none")
    with pytest.raises(openai.BadRequestError, match="streaming a response that is complete"):
        client.responses.retrieve(made.id, stream=True)


def test_tokens_are_counted_without_a_reply(client):
    made = client.responses.create(input="Hello", instructions="Be brief", **SHORT)
    counted = client.responses.input_tokens.count(model="tiny", input="Hello", instructions="Be brief")
    assert counted.input_tokens == made.usage.input_tokens and counted.object == "response.input_tokens"
    more = client.responses.create(input="Go on", previous_response_id=made.id, **SHORT)
    asked = {"input": "Go on", "previous_response_id": made.id, "extra_body": {"temperature": 0.5}}
    raw = client.responses.input_tokens.with_raw_response.count(**asked)
    assert raw.headers["x-coterie-ignored"] == "temperature"
    assert raw.parse().input_tokens == more.usage.input_tokens
