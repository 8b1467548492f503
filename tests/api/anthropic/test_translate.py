"""A Messages request asks for the same as a chat request: the same prompt, the same settings."""

from __future__ import annotations

from typing import Any

import pytest

from coterie.api.anthropic.bodies import MessagesRequest
from coterie.api.anthropic.translate import Translation
from coterie.hosting.errors import ApiError
from coterie.hosting.service import Service
from coterie.infer.model import LanguageModel
from coterie.protocol.body import read
from coterie.protocol.conversation import prepare, template_facts
from coterie.protocol.requests import ChatRequest
from coterie.protocol.thinking_fields import settled
from coterie.text.rendering import shipped_template
from coterie.text.reply_formats import format_of
from coterie.text.tokenizer import Tokenizer
from tests.api.anthropic.test_turns import result, text, use
from tests.hosting.constraints.test_grammar import ADD
from tests.serve.support import ASK, TEXTS, language_model, service

TOOL = {"name": "add", "input_schema": ADD["parameters"]}
FUNCTION = {"type": "function", "function": ADD}
LOOP = [
    {"role": "user", "content": [text("1+2?")]},
    {"role": "assistant", "content": [{"type": "thinking", "thinking": "Hm."}, text("I add."),
                                      use("t1", a=1, b=2)]},
    {"role": "user", "content": [result("t1"), text("So?")]},
]  # fmt: skip
CALL = {"id": "t1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1, "b": 2}'}}
CHAT = [
    {"role": "user", "content": "1+2?"},
    {"role": "assistant", "content": "I add.", "reasoning_content": "Hm.", "tool_calls": [CALL]},
    {"role": "tool", "content": "3", "tool_call_id": "t1", "name": "add"},
    {"role": "user", "content": "So?"},
]


@pytest.fixture(scope="module")
def served() -> Service:
    return service()


def translation(served: Service, **body: Any) -> Translation:
    given = {"model": "tiny", "max_tokens": 4, "messages": ASK, **body}
    return Translation(served, *read(MessagesRequest, given))


@pytest.mark.parametrize(
    ("body", "chat"),
    [
        ({}, {}),
        ({"system": "Be brief"}, {"messages": [{"role": "system", "content": "Be brief"}, *ASK]}),
        ({"system": [text("Be "), text("brief")]},
         {"messages": [{"role": "system", "content": "Be brief"}, *ASK]}),
        ({"messages": LOOP, "tools": [TOOL]}, {"messages": CHAT, "tools": [FUNCTION]}),
        ({"messages": LOOP, "tools": [TOOL], "tool_choice": {"type": "none"}},
         {"messages": CHAT, "tools": [FUNCTION], "tool_choice": "none"}),
        ({"messages": [LOOP[0], {"role": "assistant", "content": "It is"}]},
         {"messages": [CHAT[0], {"role": "assistant", "content": "It is"}], "continue_final_message": True}),
    ],
)  # fmt: skip
def test_the_prompt_is_that_of_the_chat_api(served, body, chat):
    ours = prepare(served, translation(served, **body).chat, "")
    theirs = prepare(served, read(ChatRequest, {"model": "tiny", "messages": ASK, **chat})[0], "")
    assert ours.prompt == theirs.prompt and len(ours.prompt) > 5


def test_settings(served):
    body = {"temperature": 0.5, "top_p": 0.9, "top_k": 5, "stop_sequences": ["a", "b"], "seed": 3,
            "moe": {"routing": "full"}, "output_config": {"effort": "max"}}  # fmt: skip
    chat = translation(served, **body).chat
    assert (chat.temperature, chat.top_p, chat.top_k, chat.stop, chat.seed) == (0.5, 0.9, 5, ["a", "b"], 3)
    assert chat.moe.routing == "full" and chat.reasoning_effort == "max"


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"type": "auto"}, ("auto", None)),
        ({"type": "any", "disable_parallel_tool_use": True}, ("required", False)),
        ({"type": "none"}, ("none", None)),
    ],
)
def test_choices_of_tools(served, choice, expected):
    chat = translation(served, tools=[TOOL], tool_choice=choice).chat
    assert (chat.tool_choice, chat.parallel_tool_calls) == expected
    chat = translation(served, tools=[TOOL], tool_choice={"type": "tool", "name": "add"}).chat
    assert chat.tool_choice.function.name == "add"


def thinks(thinking: dict[str, Any], template: str | None = None) -> tuple[Any, Any, list[str]]:
    model = language_model()
    if template is not None:
        own = Tokenizer.train(TEXTS, 330)
        own.chat_template = shipped_template(template)
        model = LanguageModel(model.model, own)
    served = service(model)
    found = translation(served, thinking=thinking)
    shown = served.tokenizer.template_for(False)
    chat, named = settled(found.chat, shown, template_facts(served, False), format_of(shown))
    return chat.chat_template_kwargs, chat.thinking_token_budget, [*found.ignored, *named]


def test_thinking():
    budget = {"type": "enabled", "budget_tokens": 2000}
    assert thinks(budget) == (None, 2000, [])
    assert thinks({"type": "adaptive", "display": "summarized"}) == (None, None, [])
    assert thinks({"type": "disabled"}) == (None, 0, [])
    assert thinks(budget, "qwen3") == ({"enable_thinking": True}, 2000, [])
    assert thinks({"type": "disabled"}, "qwen3") == ({"enable_thinking": False}, None, [])


def test_formats(served):
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
    for where in ({"output_config": {"format": {"type": "json_schema", "schema": schema}}},
                  {"output_format": {"type": "json_schema", "schema": schema}}):  # fmt: skip
        chat = translation(served, **where).chat
        assert chat.response_format.json_schema.schema_ == schema
    bad = {"type": "json_schema", "schema": {"type": "object", "properties": {"n": {"type": "wizard"}}}}
    for where, place in (({"output_config": {"format": bad}}, "/output_config/format/schema"),
                         ({"output_format": bad}, "/output_format/schema")):  # fmt: skip
        found = translation(served, **where)
        with pytest.raises(ApiError) as caught:
            prepare(served, found.chat, "")
        error = found.translated(caught.value)
        assert error.param.startswith(place) and place in str(error)


def test_places_of_tools_count_those_that_are_left_out(served):
    bad = {"name": "f", "input_schema": {"type": "array"}}
    tools = [{"type": "web_search_20250305", "name": "web_search"}, TOOL, bad]
    found = translation(served, tools=tools, tool_choice={"type": "any"})
    assert found.ignored == ["tools/0"]
    with pytest.raises(ApiError) as caught:
        prepare(served, found.chat, "")
    error = found.translated(caught.value)
    assert error.param.startswith("/tools/2/input_schema") and error.param in str(error)


def test_strict_refuses_what_would_be_named():
    strict = service(strict=True)
    for more, name in (
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools/0"),
        ({"thinking": {"type": "between_tools"}}, "thinking"),
    ):
        with pytest.raises(ApiError, match=f"^{name}: .*--strict"):
            translation(strict, **more)
    with pytest.raises(ApiError, match="--strict"):
        read(
            MessagesRequest,
            {"model": "tiny", "max_tokens": 1, "messages": ASK, "context_management": {}},
            True,
        )
