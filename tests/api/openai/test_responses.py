"""The Responses API through the real client: the same replies as chat, typed events, tools, structure."""

from __future__ import annotations

import json

import openai
import pytest

from tests.hosting.constraints.test_grammar import ADD, CLOSES, NO_REASONING, OPENS, SCHEMA, Fox
from tests.serve.support import ASK, call, tokenizer

TOOL = {"type": "function", **ADD, "strict": True}


def test_the_same_words_as_chat(client):
    chat = client.chat.completions.create(model="tiny", messages=ASK, seed=4, max_tokens=20, temperature=1)
    answer = client.responses.create(model="tiny", input="Hello", max_output_tokens=20, temperature=1,
                                     extra_body={"seed": 4})  # fmt: skip
    assert answer.output_text == chat.choices[0].message.content
    assert answer.usage.input_tokens == chat.usage.prompt_tokens
    assert answer.status == "incomplete" and answer.incomplete_details.reason == "max_output_tokens"
    messages = [{"role": "system", "content": "Be brief"}, *ASK]
    told = client.chat.completions.create(model="tiny", messages=messages, seed=4, max_tokens=9)
    items = [{"role": "user", "content": [{"type": "input_text", "text": "Hello"}]}]
    answer = client.responses.create(model="tiny", input=items, instructions="Be brief", max_output_tokens=9,
                                     extra_body={"seed": 4})  # fmt: skip
    assert answer.output_text == told.choices[0].message.content


@pytest.mark.parametrize("think", [False, True])
def test_stream_equals_plain(client, think):
    bias = {OPENS: 60, CLOSES: 50} if think else NO_REASONING
    settings = {
        "model": "tiny",
        "input": "Hello",
        "max_output_tokens": 30,
        "extra_body": {"seed": 8, "logit_bias": bias},
    }
    plain = client.responses.create(**settings)
    with client.responses.stream(**settings) as stream:
        events = list(stream)
    final = events[-1].response
    assert final.output_text == plain.output_text and final.usage == plain.usage
    assert [item.type for item in final.output] == [item.type for item in plain.output]
    if think:
        assert plain.output[0].type == "reasoning" and plain.usage.output_tokens_details.reasoning_tokens > 0
    assert [event.sequence_number for event in events if hasattr(event, "sequence_number")] == sorted(
        event.sequence_number for event in events if hasattr(event, "sequence_number")
    )
    kinds = [event.type for event in events]
    assert (
        kinds[:2] == ["response.created", "response.in_progress"] and kinds[-1] == f"response.{plain.status}"
    )


def test_a_tool_call_and_its_result(client):
    first = client.responses.create(
        model="tiny", input="1+1?", tools=[TOOL], tool_choice="required", max_output_tokens=120,
        parallel_tool_calls=False, extra_body={"seed": 1, "logit_bias": NO_REASONING},
    )  # fmt: skip
    (made,) = [item for item in first.output if item.type == "function_call"]
    assert (
        made.name == "add" and set(json.loads(made.arguments)) == {"a", "b"} and first.status == "completed"
    )
    history = [
        {"role": "user", "content": "1+1?"},
        *[item.model_dump(exclude_none=True) for item in first.output],
        {"type": "function_call_output", "call_id": made.call_id, "output": "2"},
    ]
    second = client.responses.create(model="tiny", input=history, tools=[TOOL], max_output_tokens=4,
                                     tool_choice="none", extra_body={"seed": 1})  # fmt: skip
    messages = [
        {"role": "user", "content": "1+1?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {
                    "id": made.call_id,
                    "type": "function",
                    "function": {"name": "add", "arguments": made.arguments},
                }
            ],
        },
        {"role": "tool", "content": "2", "tool_call_id": made.call_id, "name": "add"},
    ]
    chat = client.chat.completions.create(model="tiny", messages=messages, max_tokens=4, seed=1)
    assert second.output_text == chat.choices[0].message.content
    assert second.usage.input_tokens == chat.usage.prompt_tokens


def test_structured(client):
    fmt = {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA, "strict": True}}
    bias = {"logit_bias": NO_REASONING, "seed": 2}
    answer = client.responses.create(
        model="tiny", input="Hello", text=fmt, max_output_tokens=200, extra_body=bias
    )
    assert set(json.loads(answer.output_text)) == {"n", "kind", "tags"}
    parsed = client.responses.parse(
        model="tiny", input="Hello", text_format=Fox, max_output_tokens=80, extra_body=bias
    )
    assert isinstance(parsed.output_parsed, Fox)


def test_unknown_tools_are_left_out_and_said_so(server):
    body = {
        "model": "tiny",
        "input": "Hello",
        "max_output_tokens": 2,
        "tools": [{"type": "web_search"}, TOOL],
    }
    status, headers, answer = call(server.url, "POST", "/v1/responses", body)
    assert status == 200 and headers["x-coterie-ignored"] == "tools/0" and len(answer["tools"]) == 1


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"background": True}, "/background"),
        ({"prompt": {"id": "p"}}, "/prompt"),
        ({"previous_response_id": "resp_1", "conversation": "conv_1"}, "/conversation"),
        ({"input": [{"type": "item_reference"}]}, "/input/0/id"),
        ({"input": [{"type": "computer_call"}]}, "/input/0/type"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "http://169.254.169.254/"}]}]},
         "/input/0/content"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "/text/format/schema"),
        ({"max_output_tokens": 0}, "/max_output_tokens"),
    ],
)  # fmt: skip
def test_refusals(client, more, param):
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(**{"model": "tiny", "input": "Hello", "max_output_tokens": 2, **more})
    assert caught.value.param.startswith(param), caught.value.param


def test_special_tokens_in_text_stay_text(server):
    whole = call(server.url, "POST", "/tokenize", {"messages": [{"role": "user", "content": "<|im_end|>"}]})[
        2
    ]["tokens"]
    assert whole.count(tokenizer().token_id("<|im_end|>")) == 1


def test_a_call_is_streamed_and_one_that_is_cut_off_is_incomplete(client):
    """The arguments of both are those of the plain answer."""
    asked = {"model": "tiny", "input": "1+1?", "tools": [TOOL], "tool_choice": "required"}
    asked["extra_body"] = {"seed": 1, "logit_bias": NO_REASONING}
    for limit, status in ((120, "completed"), (20, "incomplete")):
        plain = client.responses.create(**asked, max_output_tokens=limit)
        events = list(client.responses.create(**asked, max_output_tokens=limit, stream=True))
        made, item = plain.output[0], events[-1].response.output[0]
        assert (made.type, made.status, plain.status) == ("function_call", status, status)
        assert (item.name, item.arguments, item.status) == (made.name, made.arguments, made.status)
        first = [event for event in events if getattr(event, "output_index", None) == 0]
        written = [one.delta for one in first if one.type == "response.function_call_arguments.delta"]
        assert "".join(written) == made.arguments and len(written) > 3
        kinds = [event.type.removeprefix("response.") for event in first]
        assert kinds[0] == "output_item.added"
        assert kinds[-2:] == ["function_call_arguments.done", "output_item.done"]
        assert not any(event.type == "response.output_text.delta" for event in events)
