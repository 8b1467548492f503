"""A chat request and its template: which one, what it is given, what it does not show, ids of calls."""

# ruff: noqa: E501  # one template a line

import json
import re
from typing import Any

import pytest

from coterie.hosting.errors import ApiError
from coterie.hosting.service import Service
from coterie.infer.model import LanguageModel
from coterie.protocol.conversation import Conversation, prepare
from coterie.protocol.requests import ChatRequest
from coterie.text.template_sources import ChatTemplate, ChatTemplates
from coterie.text.tokenizer import Tokenizer
from tests.infer.models import tiny_model
from tests.serve.support import service, tokenizer

ASK = {"role": "user", "content": "Hello"}
CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [
        {"id": "abcdefghi", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
    ],
}
RESULT = {
    "role": "tool",
    "tool_call_id": "abcdefghi",
    "name": "f",
    "content": [{"type": "text", "text": "ok"}],
}
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]
PLAIN = "{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}"
WHOLE = "{{ tools }}{% for m in messages %}{{ m | tojson }}{% endfor %}"
NINE = "{% for m in messages %}{% for c in m.tool_calls or [] %}{% if c.id | length != 9 %}{{ raise_exception('nine characters') }}{% endif %}{{ c }}{% endfor %}{{ m.content }}{% endfor %}{{ tools }}"


def served(templates: str | ChatTemplates | None) -> Service:
    made = Tokenizer(tokenizer()._json, tokenizer()._config, templates)
    return service(LanguageModel(tiny_model("dense", vocab_size=made.vocab_size, max_positions=2048), made))


def prepared(at: Service, messages: list[Any], **more: Any) -> Conversation:
    return prepare(at, ChatRequest.model_validate({"model": "tiny", "messages": messages, **more}), "")


def prompt(at: Service, messages: list[Any], **more: Any) -> str:
    return at.tokenizer.decode(prepared(at, messages, **more).prompt)


def test_every_field_of_a_message_reaches_the_template():
    at = served("{% for m in messages %}{{ m | tojson }}\n{% endfor %}")
    lines = prompt(
        at, [ASK, CALL, RESULT, {"role": "assistant", "content": "", "reasoning": "so"}]
    ).splitlines()
    calls = [{"id": "abcdefghi", "type": "function", "function": {"name": "f", "arguments": {"x": 1}}}]
    assert [json.loads(line) for line in lines] == [
        ASK,
        {"role": "assistant", "tool_calls": calls},
        {**RESULT, "content": "ok"},
        {
            "role": "assistant",
            "content": "",
            **dict.fromkeys(("reasoning_content", "thinking", "reasoning"), "so"),
        },
    ]


@pytest.mark.parametrize(
    ("template", "messages", "more", "ignored"),
    [
        (WHOLE, [ASK, CALL, RESULT], {"tools": TOOLS}, ()),
        (PLAIN, [ASK], {"tools": TOOLS}, ("tools",)),
        (PLAIN, [ASK], {"tools": TOOLS, "tool_choice": "none"}, ()),
        (PLAIN, [ASK, CALL, RESULT], {}, ("messages.tool_calls",)),
        (PLAIN, [ASK, {"role": "assistant", "content": "x", "reasoning": "y"}], {}, ("messages.reasoning_content",)),
        (PLAIN.replace("messages", "messages if m.role == 'user'"), [{"role": "developer", "content": "x"}, ASK, RESULT], {}, ("messages.tool", "messages.system")),
        (PLAIN, [ASK], {"tools": TOOLS, "reasoning_effort": "low"}, ("reasoning_effort", "tools")),
    ],
)  # fmt: skip
def test_what_the_template_does_not_show_is_named(template, messages, more, ignored):
    assert prepared(served(template), messages, **more).ignored == ignored


def test_the_template_for_tools_is_used_with_tools_alone():
    named = ChatTemplates(
        {"default": ChatTemplate(PLAIN), "tool_use": ChatTemplate("TOOLS {{ tools }}" + PLAIN)}
    )
    at = served(named)
    assert prompt(at, [ASK]) == "[user] Hello"
    assert prompt(at, [ASK], tools=TOOLS, tool_choice="none") == "[user] Hello"
    assert (
        prompt(at, [ASK], tools=TOOLS).startswith("TOOLS [{") and not prepared(at, [ASK], tools=TOOLS).ignored
    )


def test_template_arguments_are_those_that_the_template_reads():
    at = served(PLAIN + "{% if shout %}{{ shout | tojson }}{% endif %}")
    assert prompt(at, [ASK], chat_template_kwargs={"shout": {"loud": [1, None]}}).endswith(
        '{"loud": [1, null]}'
    )
    for name in ("other", "m"):  # it sets `m` itself
        talk = prepared(at, [ASK], chat_template_kwargs={name: 1})
        assert talk.ignored == (f"chat_template_kwargs.{name}",) and talk.prompt == prepared(at, [ASK]).prompt
    for name in ("messages", "tools"):
        with pytest.raises(ApiError, match=f"chat_template_kwargs/{name}: is part of the conversation"):
            prepared(at, [ASK], chat_template_kwargs={name: 1})


def test_control_tokens_in_template_arguments_stay_text():
    at = served(PLAIN + "{{ shout }}")
    end = at.tokenizer.token_id("<|im_end|>")
    assert end not in prepared(at, [ASK], chat_template_kwargs={"shout": "<|im_end|>"}).prompt


@pytest.mark.parametrize(("template", "pattern"), [(NINE, r"[0-9a-f]{9}"), (WHOLE, r"call_[0-9a-f]{24}")])
def test_ids_of_generated_calls_can_be_sent_back(template, pattern):
    at = served(template)
    parser = prepared(at, [ASK], tools=TOOLS).parser()
    parser.feed('<tool_call>{"name": "f", "arguments": {"x": 1}}</tool_call>')
    made = parser.finish()
    id = made.tool_calls[0].id or ""
    assert re.fullmatch(pattern, id)
    data = made.to_dict()
    data["tool_calls"][0]["function"]["arguments"] = '{"x": 1}'
    assert id in prompt(at, [ASK, data], tools=TOOLS)


def test_a_model_without_a_template_for_this_conversation_says_so():
    with pytest.raises(ApiError, match="no chat template; use /v1/completions"):
        prepared(served(ChatTemplates()), [ASK])
    with pytest.raises(ApiError, match="no 'default' one, only rag"):
        prepared(served(ChatTemplates({"rag": ChatTemplate(PLAIN)})), [ASK])
