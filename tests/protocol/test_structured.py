"""The form of a reply, as vLLM's fields say it, in chat and in completions."""

from __future__ import annotations

import json
import re

import openai
import pytest

from coterie.text.template_sources import ChatTemplates
from tests.serve.support import ASK, language_model, serving

SCHEMA = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"],
          "additionalProperties": False}  # fmt: skip
FORMS = [
    ("guided_choice", ["red", "green"], "red|green"),
    ("guided_regex", "[0-9]{3}-[xy]", "[0-9]{3}-[xy]"),
    ("guided_grammar", 'start: "a" "b"+ "!"', "ab+!"),
    ("guided_json", json.dumps(SCHEMA), r'\{"a":[12]\}'),
    ("structured_outputs", {"choice": ["red", "green"]}, "red|green"),
    ("structured_outputs", {"regex": "q{4}"}, "q{4}"),
    ("structured_outputs", {"grammar": 'root ::= "a" | "bb"'}, "a|bb"),
    ("structured_outputs", {"json": SCHEMA}, r'\{"a":[12]\}'),
]


@pytest.mark.parametrize(("field", "value", "pattern"), FORMS)
def test_replies_have_the_form(client, field, value, pattern):
    """Whatever a random model would rather say, streamed or not."""
    more = {"model": "tiny", "max_tokens": 40, "seed": 5, "extra_body": {field: value}}
    said = client.completions.create(prompt="x", **more).choices[0]
    assert re.fullmatch(pattern, said.text) and said.finish_reason == "stop"
    chunks = list(client.completions.create(prompt="x", stream=True, **more))
    assert "".join(chunk.choices[0].text for chunk in chunks) == said.text
    reply = client.chat.completions.create(messages=ASK, n=2, **more)
    for choice in reply.choices:
        assert re.fullmatch(pattern, choice.message.content) and choice.finish_reason == "stop"


def test_json_object_and_response_format_of_completions(client):
    for extra in (
        {"structured_outputs": {"json_object": True}},
        {"response_format": {"type": "json_object"}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}},
    ):
        choice = client.completions.create(
            model="tiny", prompt="x", max_tokens=60, seed=1, logit_bias={"93": 5}, extra_body=extra
        ).choices[0]
        assert choice.text.startswith("{")
        if choice.finish_reason == "stop":
            assert isinstance(json.loads(choice.text), dict)


def test_the_form_waits_for_the_end_of_reasoning():
    model = language_model()
    assert model.tokenizer is not None
    template = "{% for m in messages %}{{ m.content }}{% endfor %}<think>\n"
    before, model.tokenizer.templates = model.tokenizer.templates, ChatTemplates.of(template)
    try:
        with serving(model) as running:
            asking = openai.OpenAI(base_url=running.url + "/v1", api_key="none", max_retries=0)
            end = model.tokenizer.token_id("</think>")
            reply = asking.chat.completions.create(
                model="tiny", messages=ASK, max_tokens=60, seed=3, logit_bias={str(end): 12},
                extra_body={"guided_choice": ["red", "green"]},
            ).choices[0]  # fmt: skip
    finally:
        model.tokenizer.templates = before
    assert reply.message.content in ("red", "green") and reply.finish_reason == "stop"


TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


@pytest.mark.parametrize(
    ("extra", "pointer"),
    [
        ({"guided_choice": ["a"], "guided_regex": "b"}, "/guided_choice"),
        ({"guided_regex": "a", "structured_outputs": {"regex": "b"}}, "/structured_outputs/regex"),
        ({"guided_json": SCHEMA, "response_format": {"type": "json_object"}}, "/guided_json"),
        ({"guided_json": "[1"}, "/guided_json"),
        ({"guided_json": {"type": "object", "$ref": "#/nowhere"}}, "/guided_json/$ref"),
        ({"guided_regex": "("}, "/guided_regex"),
        ({"guided_grammar": "start: nothing"}, "/guided_grammar"),
        ({"guided_choice": []}, "/guided_choice"),
        ({"guided_choice": ["a"], "min_tokens": 3}, "/min_tokens"),
        ({"structured_outputs": {"regex": "a"}, "ignore_eos": True}, "/ignore_eos"),
        ({"structured_outputs": {"structural_tag": "{}"}}, "/structured_outputs/structural_tag"),
        ({"guided_choice": ["a"], "tools": [TOOL], "tool_choice": "required"}, "/guided_choice"),
        ({"min_tokens": 2, "tools": [TOOL], "parallel_tool_calls": False}, "/min_tokens"),
    ],
)
def test_contradictions_and_faults(client, extra, pointer):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="tiny", messages=ASK, max_tokens=5, extra_body=extra)
    assert caught.value.body["param"] == pointer
    if "tools" not in extra:
        with pytest.raises(openai.BadRequestError) as caught:
            client.completions.create(model="tiny", prompt="x", max_tokens=5, extra_body=extra)
        assert caught.value.body["param"] == pointer
