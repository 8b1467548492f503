"""Conversations that the server keeps: the same prompts as if the client had sent every item itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import openai
import pytest

from tests.api.openai.test_responses import TOOL
from tests.hosting.constraints.test_grammar import CLOSES, NO_REASONING, OPENS
from tests.serve.support import ASK, call, serving

SHORT = {"model": "tiny", "max_output_tokens": 12, "extra_body": {"seed": 4, "logit_bias": NO_REASONING}}


def test_a_continued_response_has_the_prompt_of_the_whole_conversation(client):
    first = client.responses.create(input="Hello", instructions="Be brief", **SHORT)
    second = client.responses.create(input="And you?", previous_response_id=first.id, **SHORT)
    third = client.responses.create(input="Bye", previous_response_id=second.id, **SHORT)
    said = [
        *ASK,
        {"role": "assistant", "content": first.output_text},
        {"role": "user", "content": "And you?"},
        {"role": "assistant", "content": second.output_text},
        {"role": "user", "content": "Bye"},
    ]
    chat = client.chat.completions.create(
        model="tiny", messages=said, max_tokens=12, seed=4, logit_bias=NO_REASONING,
        extra_body={"return_token_ids": True},
    )  # fmt: skip
    assert third.output_text == chat.choices[0].message.content
    assert third.usage.input_tokens == len(chat.choices[0].prompt_token_ids)
    sent = [*ASK, *first.output, {"role": "user", "content": "And you?"}, *second.output]
    sent += [{"role": "user", "content": [{"type": "input_text", "text": "Bye"}]}]
    again = client.responses.create(input=sent, **SHORT)
    assert (again.output_text, again.usage.input_tokens) == (third.output_text, third.usage.input_tokens)
    assert (third.previous_response_id, third.store, third.instructions) == (second.id, True, None)


@pytest.mark.parametrize("stream", [False, True])
def test_references_stand_for_what_was_stored(client, stream):
    """As the AI SDK sends them: the reply by `item_reference`, in a stream too, reasoning by its id."""
    biased = {"seed": 8, "logit_bias": {OPENS: 30, CLOSES: 25}}
    asked = {"model": "tiny", "max_output_tokens": 30, "extra_body": biased}
    if stream:
        with client.responses.stream(input="Hello", **asked) as events:
            first = list(events)[-1].response
    else:
        first = client.responses.create(input="Hello", **asked)
    assert [item.type for item in first.output] == ["reasoning", "message"]
    last = {"role": "user", "content": "And you?"}
    thought, message = first.output
    references = [
        [{"type": "item_reference", "id": thought.id}, {"type": "item_reference", "id": message.id}],
        [{"id": thought.id}, {"type": "message", "role": "assistant", "id": message.id}],
        [{"type": "reasoning", "id": thought.id, "summary": [], "encrypted_content": "x"}, message],
    ]
    whole = client.responses.create(input=[*ASK, *first.output, last], **asked)
    for made in references:
        answer = client.responses.create(input=[*ASK, *made, last], **asked)
        assert answer.output_text == whole.output_text
        assert answer.usage.input_tokens == whole.usage.input_tokens


def test_a_tool_call_is_continued_by_its_result_alone(client):
    asked = {"model": "tiny", "tools": [TOOL], "extra_body": {"seed": 1, "logit_bias": NO_REASONING}}
    first = client.responses.create(
        input="1+1?", tool_choice="required", parallel_tool_calls=False, max_output_tokens=120, **asked
    )
    (made,) = [item for item in first.output if item.type == "function_call"]
    for output in ("2", [{"type": "input_text", "text": "2"}]):
        result = {"type": "function_call_output", "call_id": made.call_id, "output": output}
        asked |= {"tool_choice": "none", "max_output_tokens": 4}
        second = client.responses.create(input=[result], previous_response_id=first.id, **asked)
        whole = client.responses.create(
            input=[{"role": "user", "content": "1+1?"}, *first.output, result], **asked
        )
        assert second.usage.input_tokens == whole.usage.input_tokens
        assert second.output_text == whole.output_text


def test_what_is_not_stored_is_not_found(client):
    unkept = client.responses.create(input="Hello", store=False, **SHORT)
    assert unkept.store is False
    previous = "previous_response"
    for more, words, code, status in (
        ({f"{previous}_id": unkept.id}, "Previous response with id", f"{previous}_not_found", 400),
        (
            {"conversation": "conv_1"},
            "Conversation with id 'conv_1' not found.",
            "conversation_not_found",
            404,
        ),
        (
            {"input": [{"type": "item_reference", "id": unkept.output[0].id}]},
            "Items are not",
            "item_not_found",
            404,
        ),
    ):
        with pytest.raises(openai.APIStatusError, match=words) as caught:
            client.responses.create(**{"input": "x", **SHORT, **more})
        assert (caught.value.code, caught.value.status_code) == (code, status)
    with pytest.raises(openai.NotFoundError, match="not found"):
        client.responses.retrieve(unkept.id)


def test_fields_without_effect_are_named_and_come_back(client):
    answer = client.responses.with_raw_response.create(
        input="Hello", metadata={"a": "b"}, user="me", prompt_cache_key="k", safety_identifier="s",
        service_tier="auto", store=True,
        include=["reasoning.encrypted_content", "message.output_text.logprobs"], **SHORT,
    )  # fmt: skip
    named = set(answer.headers["x-coterie-ignored"].split(","))
    assert named == {
        "user", "prompt_cache_key", "safety_identifier", "service_tier", "include:reasoning.encrypted_content"
    }  # fmt: skip
    response = answer.parse()
    assert (response.metadata, response.user, response.prompt_cache_key) == ({"a": "b"}, "me", "k")
    assert response.output[0].content[0].logprobs
    assert client.responses.retrieve(response.id).metadata == {"a": "b"}


def test_without_a_store(tmp_path):
    with serving(store=False, state_dir=str(tmp_path)) as server:
        asked = {"model": "tiny", "input": "Hello", "max_output_tokens": 2}
        for store, named in ((None, None), (False, None), (True, "store")):
            _, headers, answer = call(server.url, "POST", "/v1/responses", {**asked, "store": store})
            assert (headers.get("x-coterie-ignored"), answer["store"]) == (named, False)
        status, _, body = call(
            server.url, "POST", "/v1/responses", {**asked, "previous_response_id": answer["id"]}
        )
        assert status == 400 and body["error"]["param"] == "/previous_response_id"
        assert call(server.url, "GET", f"/v1/responses/{answer['id']}")[2]["error"]["code"] == "store_off"
        assert call(server.url, "POST", "/v1/conversations", {})[0] == 404
    assert not list(tmp_path.iterdir())


def test_answers_go_out_although_nothing_can_be_kept(tmp_path):
    (tmp_path / "file").write_text("")
    with serving(state_dir=str(tmp_path / "file")) as server:
        asked = {"model": "tiny", "input": "Hello", "max_output_tokens": 2}
        status, headers, answer = call(server.url, "POST", "/v1/responses", asked)
        assert (status, headers["x-coterie-ignored"], answer["store"]) == (200, "store", False)
        client = openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)
        with client.responses.stream(**asked) as stream:
            final = list(stream)[-1].response
        assert final.x_coterie_ignored == ["store"] and final.store is False
        with pytest.raises(openai.InternalServerError, match="cannot be read") as caught:
            client.responses.retrieve("resp_1")
        assert str(tmp_path) not in str(caught.value)


def test_conversations_survive_a_restart_and_belong_to_a_key(tmp_path):
    asked = {"model": "tiny", "input": "Hello", "max_output_tokens": 2}
    with serving(state_dir=str(tmp_path)) as server:
        first = call(server.url, "POST", "/v1/responses", asked)[2]
    with serving(state_dir=str(tmp_path)) as server:
        more = {**asked, "previous_response_id": first["id"]}
        assert call(server.url, "POST", "/v1/responses", more)[0] == 200
    with serving(state_dir=str(tmp_path), api_key="a-key-of-someone") as server:
        key = {"authorization": "Bearer a-key-of-someone"}
        assert call(server.url, "POST", "/v1/responses", more, key)[0] == 400
        item = [{"type": "item_reference", "id": first["output"][0]["id"]}]
        assert call(server.url, "POST", "/v1/responses", {**asked, "input": item}, key)[0] == 404


SERVER = """
import sys
from coterie.hosting.host import Host
from coterie.serve.server import serve
from tests.serve.support import service
serve(Host.of(service(state_dir=sys.argv[1])), lambda url: print(url, flush=True))
"""


@pytest.mark.slow
def test_a_killed_server_forgets_nothing_that_it_has_answered(tmp_path):
    """Killed while it streams another reply; the next server continues the conversation."""
    asked = {"model": "tiny", "input": "Hello", "max_output_tokens": 4}
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    previous, counts = None, []
    for _ in range(3):
        command = [sys.executable, "-c", SERVER, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
            try:
                url = process.stdout.readline().strip()
                more = {} if previous is None else {"previous_response_id": previous}
                _, _, answer = call(url, "POST", "/v1/responses", {**asked, **more})
                previous = answer["id"]
                counts.append(answer["usage"]["input_tokens"])
                client = openai.OpenAI(base_url=url + "/v1", api_key="none", max_retries=0)
                stream = client.responses.create(**{**asked, **more, "max_output_tokens": 300}, stream=True)
                next(iter(stream))
            finally:
                process.send_signal(signal.SIGKILL)
    assert counts[0] < counts[1] < counts[2]
    assert not list(tmp_path.glob("*.damaged-*"))
