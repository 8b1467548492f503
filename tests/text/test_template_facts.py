"""What a chat template shows: found by rendering, said in one line, and looked for in one conversation."""

# ruff: noqa: E501  # one template or case a line

import pytest

from coterie.text.messages import Message, TextPart, ToolCall
from coterie.text.rendering import render, shipped_names, shipped_template
from coterie.text.template_facts import left_out, template_facts

MARKS = {"bos_token": "<s>", "eos_token": "</s>"}
PLAIN = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
CALLS = "{% for m in messages %}[{{ m.role }}] {{ m.content }}{% for c in m.tool_calls or [] %}{{ c.function | tojson }}{% endfor %}{% endfor %}"
ASK, CALL = Message("user", "add 1 and 2"), Message("assistant", "", None, [ToolCall("add", {"a": 1})])
RESULT, ANSWER = Message("tool", "3", name="add"), Message("assistant", "It is 3.", "Easy.")
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {}}}]


@pytest.mark.parametrize("name", shipped_names())
def test_the_shipped_templates_show_everything(name):
    facts = template_facts(shipped_template(name), MARKS)
    assert facts.tools and facts.calls and facts.results and facts.system and facts.reasoning
    assert facts.long_ids and not facts.refuses
    assert facts.complaint([Message("system", "x"), ASK, CALL, RESULT, ANSWER], TOOLS) is None


@pytest.mark.parametrize(
    ("source", "hidden"),
    [
        (PLAIN, {"tools", "calls", "reasoning"}),
        (CALLS, {"tools", "reasoning"}),
        # It mentions tools and never writes them.
        ("{% if tools %}{% endif %}" + CALLS, {"tools", "reasoning"}),
        ("{% for m in messages if m.role != 'tool' %}{{ m.content }}{% endfor %}", {"tools", "calls", "results", "reasoning"}),
        ("{% for m in messages if m.role != 'system' %}{{ m | tojson }}{% endfor %}{{ tools }}", {"system"}),
        ("{{ raise_exception('no') }}", {"tools", "calls", "results", "system", "reasoning"}),
    ],
)  # fmt: skip
def test_what_a_template_leaves_out(source, hidden):
    facts = template_facts(source)
    assert {
        kind for kind in ("tools", "calls", "results", "system", "reasoning") if not getattr(facts, kind)
    } == hidden


@pytest.mark.parametrize(
    ("source", "talk", "tools", "arguments", "complaint"),
    [
        (PLAIN, [ASK], None, {}, None),
        (PLAIN, [ASK], TOOLS, {}, "shows no tools, so"),
        (PLAIN, [ASK, CALL], None, {}, "the call of 'add' is left out"),
        (PLAIN.replace("messages", "messages if m.role != 'tool'"), [ASK, RESULT], None, {}, "no results of tools"),
        (PLAIN.replace("messages", "messages if m.role != 'system'"), [Message("system", "x"), ASK], None, {}, "no system messages"),
        (PLAIN, [ASK], None, {"shout": True}, "does not read the argument 'shout'"),
        (PLAIN + "{{ shout }}", [ASK], None, {"shout": True}, None),
        (PLAIN, [ASK], None, {"messages": []}, "'messages' is no argument"),
        # A template that refuses calls says so itself when the conversation is rendered.
        ("{% for m in messages %}{% if m.tool_calls %}{{ raise_exception('no') }}{% endif %}{% endfor %}", [ASK, CALL], None, {}, None),
    ],
)  # fmt: skip
def test_complaints_name_the_first_thing_that_is_lost(source, talk, tools, arguments, complaint):
    said = template_facts(source, arguments).complaint(talk, tools, arguments)
    assert said is None if complaint is None else complaint in said and "\n" not in said


def test_ids_of_calls_are_of_a_form_that_the_template_takes():
    nine = "{% for m in messages %}{% for c in m.tool_calls or [] %}{% if c.id | length != 9 %}{{ raise_exception('nine') }}{% endif %}{% endfor %}{{ m.content }}{% endfor %}"
    assert not template_facts(nine).long_ids and template_facts(PLAIN).long_ids
    assert len({template_facts(nine).new_id() for _ in range(9)}) == 9
    for source in (nine, PLAIN):
        id = template_facts(source).new_id()
        assert id.replace("_", "").isalnum()
        render([ASK, Message("assistant", "", None, [ToolCall("f", {}, id)])], source)


LAST = "{% for m in messages %}[{{ m.role }}]{% if loop.last or m.role == 'user' %}{{ m.content | tojson }}{% endif %}{% endfor %}"
CALL_OR_WORDS = "{% for m in messages %}{% if m.tool_calls %}{{ m.tool_calls[0].function.name }}{% else %}{{ m.content }}{% endif %}{% endfor %}"


@pytest.mark.parametrize(
    ("source", "talk", "lost"),
    [
        (PLAIN, [ASK, ANSWER], []),
        (LAST, [ASK, Message("assistant", 'a "quoted" word'), ASK, ANSWER], [(1, "the words")]),
        (LAST, [Message("user", 'a\n"line"'), ANSWER], []),
        (CALL_OR_WORDS, [ASK, Message("assistant", "Let me see.", None, CALL.tool_calls)], [(1, "the words")]),
        (CALL_OR_WORDS, [ASK, Message("assistant", "", None, [*CALL.tool_calls, ToolCall("now", {})])], [(1, "the call of 'now'")]),
        # The name stands elsewhere in the text, where it is no call.
        (PLAIN, [Message("user", "add"), CALL, Message("user", "well?")], [(1, "the call of 'add'")]),
        (PLAIN, [Message("user", [TextPart("a"), TextPart("b")]), Message("assistant", " ")], []),
    ],
)  # fmt: skip
def test_words_and_calls_that_one_conversation_loses(source, talk, lost):
    assert list(left_out(talk, render(talk, source), lambda marked: render(marked, source))) == lost
