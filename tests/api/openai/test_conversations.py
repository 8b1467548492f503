"""`/v1/conversations` through the real client."""

from __future__ import annotations

import openai
import pytest

from tests.api.openai.test_memory import SHORT


def texts(items) -> list[str]:
    return [item.content[0].text for item in items]


def test_responses_continue_a_conversation_and_add_to_it(client):
    items = [{"type": "message", "role": "user", "content": "Hello"}]
    made = client.conversations.create(items=items, metadata={"topic": "fox"})
    assert made.id.startswith("conv_") and made.metadata == {"topic": "fox"}
    first = client.responses.create(input="Who?", conversation=made.id, **SHORT)
    second = client.responses.create(input="Why?", conversation={"id": made.id}, **SHORT)
    assert second.conversation.id == made.id
    said = ["Hello", "Who?", first.output_text, "Why?", second.output_text]
    listed = list(client.conversations.items.list(made.id, order="asc", limit=2))
    assert texts(listed) == said and [item.type for item in listed] == ["message"] * 5
    sent = [{"role": "user" if item.role == "user" else "assistant", "content": text}
            for item, text in zip(listed[:4], said, strict=False)]  # fmt: skip
    whole = client.responses.create(input=sent, **SHORT)
    assert (whole.output_text, whole.usage.input_tokens) == (second.output_text, second.usage.input_tokens)
    after = client.responses.create(input="x", previous_response_id=first.id, **SHORT)
    assert after.usage.input_tokens < second.usage.input_tokens + 20
    heard = client.responses.input_items.list(after.id, order="asc")
    assert texts(heard) == ["Hello", "Who?", first.output_text, "x"]  # as it was then
    client.responses.create(input="unkept", conversation=made.id, store=False, **SHORT)
    assert "unkept" in texts(client.conversations.items.list(made.id))
    client.conversations.delete(made.id)
    with pytest.raises(openai.NotFoundError, match=f"Conversation with id '{made.id}' not found"):
        client.responses.create(input="x", previous_response_id=first.id, **SHORT)
    assert client.responses.retrieve(first.id).output_text == first.output_text


def test_conversations_and_items_are_changed_and_deleted(client):
    made = client.conversations.create()
    assert client.conversations.items.list(made.id).data == []
    added = client.conversations.items.create(
        made.id, items=[{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]
    )
    assert texts(added.data) == ["a", "b"]
    one = client.conversations.items.retrieve(added.data[1].id, conversation_id=made.id)
    assert one == added.data[1]
    assert client.conversations.items.delete(added.data[0].id, conversation_id=made.id).id == made.id
    assert texts(client.conversations.items.list(made.id)) == ["b"]
    assert client.conversations.update(made.id, metadata={"a": "b"}).metadata == {"a": "b"}
    assert client.conversations.retrieve(made.id).metadata == {"a": "b"}
    deleted = client.conversations.delete(made.id)
    assert deleted.deleted and deleted.object == "conversation.deleted"
    for attempt in (
        lambda: client.conversations.retrieve(made.id),
        lambda: client.conversations.delete(made.id),
        lambda: client.conversations.update(made.id, metadata={}),
        lambda: client.conversations.items.list(made.id),
        lambda: client.conversations.items.create(made.id, items=[{"role": "user", "content": "a"}]),
        lambda: client.conversations.items.retrieve("msg_1", conversation_id=made.id),
        lambda: client.conversations.items.delete("msg_1", conversation_id=made.id),
        lambda: client.responses.create(input="x", conversation=made.id, **SHORT),
    ):
        with pytest.raises(openai.NotFoundError, match=f"Conversation with id '{made.id}' not found"):
            attempt()


def test_a_response_is_not_a_conversation_nor_the_other_way_round(client):
    made = client.conversations.create()
    answer = client.responses.create(input="Hello", **SHORT)
    for attempt in (
        lambda: client.responses.retrieve(made.id),
        lambda: client.responses.delete(made.id),
        lambda: client.conversations.retrieve(answer.id),
        lambda: client.conversations.delete(answer.id),
        lambda: client.conversations.items.list(answer.id),
    ):
        with pytest.raises(openai.NotFoundError):
            attempt()


def test_items_that_no_request_could_contain_are_refused(client):
    for items, param in (
        ([{"type": "computer_call"}], "/items/0/type"),
        ([{"role": "user", "content": "a"}, {"type": "function_call", "name": "f"}], "/items/1/call_id"),
        ([{"type": "item_reference"}], "/items/0/id"),
        ([{"role": "user", "content": "a"}, {"role": "user", "content": {"$ref": "#"}}], "/items/1/content"),
        ([{"role": "wizard", "content": "a"}], "/items/0/role"),
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            client.conversations.create(items=items)
        assert caught.value.param == param
