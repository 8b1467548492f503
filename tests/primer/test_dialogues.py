"""Conversations are well formed, tool results are right, and the text is the template's rendering."""

import ast
import contextlib
import io
import itertools
import json
import operator
import re
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

import coterie.text
from coterie.primer import dialogue_messages, dialogues, generate
from coterie.primer.talk import FAREWELLS, GREETINGS, TOPICS
from coterie.primer.words import CAPITALS
from coterie.text.chat import Message, parse_reply, render

SEEDS = st.integers(0, 10**6)
TEMPLATE = (Path(coterie.text.__file__).parent / "templates" / "chatml.jinja").read_text()
SIGNS = {"+": operator.add, "-": operator.sub, "*": operator.mul}


def calculator(expression: str) -> str:
    first, sign, second = expression.split()
    if sign not in SIGNS:
        return f"error: cannot read '{sign}', use + - * /"
    return str(SIGNS[sign](int(first), int(second)))


def python(code: str) -> str:
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            exec(compile(code, "<tool>", "exec"), {})
    except Exception as error:  # the tool reports whatever the code raises
        return f"{type(error).__name__}: {error.msg if isinstance(error, SyntaxError) else error}"
    return printed.getvalue().rstrip("\n")


@settings(max_examples=200, deadline=None)
@given(SEEDS, SEEDS)
def test_turns_tools_and_answers(seed, index):
    talk = dialogue_messages(seed, index)
    assert talk == dialogue_messages(seed, index)
    roles = [message["role"] for message in talk]
    before = {
        "system": [None],
        "user": [None, "system", "assistant"],
        "assistant": ["user", "tool"],
        "tool": ["assistant"],
    }
    for previous, role in zip([None, *roles], roles, strict=False):
        assert previous in before[role]
    assert roles[-1] == "assistant" and not talk[-1].get("tool_calls")
    for message, reply in itertools.pairwise(talk):
        if not message.get("tool_calls"):
            continue
        (call,) = message["tool_calls"]
        function = call["function"]
        assert reply["role"] == "tool" and reply["name"] == function["name"]
        (argument,) = function["arguments"].values()
        if function["name"] == "calculator":
            assert reply["content"] == calculator(argument)
        elif function["name"] == "python":
            assert reply["content"] == python(argument)
        elif argument.startswith("capital of "):
            assert reply["content"] == CAPITALS[argument.removeprefix("capital of ")]
        else:
            assert reply["content"].isdigit() or reply["content"].startswith("error: nothing found for ")
    # What the assistant says last repeats what the last tool said.
    results = [message["content"] for message in talk if message["role"] == "tool"]
    if results:
        assert not results[-1].startswith("error") and any(
            results[-1] in said["content"] for said in talk[-3:]
        )


@settings(max_examples=150, deadline=None)
@given(SEEDS, SEEDS)
def test_sums_and_prices_answered_in_words_are_right(seed, index):
    talk = dialogue_messages(seed, index)
    for asked, reply in itertools.pairwise(talk):
        words = asked["content"]
        for sign, name in (("+", "plus"), ("-", "minus"), ("*", "times")):
            words = words.replace(name, sign)
        problem = re.search(r"(\d+ [-+*] \d+)\??\.?$", words)
        if asked["role"] == "user" and problem and not reply.get("tool_calls"):
            assert re.search(r"(-?\d+)\.$", reply["content"])[1] == calculator(problem[1])
        if match := re.search(r"costs (\d+), so (\d+) cost (\d+)", reply["content"]):
            price, number, total = map(int, match.groups())
            assert price * number == total


@settings(max_examples=100, deadline=None)
@given(SEEDS, SEEDS)
def test_text_is_what_the_chat_template_gives(seed, index):
    document = generate("dialogues", seed, index)
    assert list(document.messages) == dialogue_messages(seed, index)
    assert document.text == render([Message.from_dict(message) for message in document.messages], TEMPLATE)
    for message in document.messages:
        if message["role"] == "assistant":
            assert parse_reply(dialogues._content(message)) == Message.from_dict(message)


def test_every_tool_errs_and_is_tried_again():
    errors = [
        reply["content"].split()[0]
        for index in range(600)
        for reply in dialogue_messages(0, index)
        if reply["role"] == "tool" and "rror:" in reply["content"]
    ]
    assert {"NameError:", "SyntaxError:", "error:"} <= set(errors) and len(errors) > 40


def test_plain_talk_is_well_written():
    for asks, answers in (*GREETINGS, *FAREWELLS, *TOPICS):
        assert len(set(asks)) == len(asks) and len(set(answers)) == len(answers)
        for line in (*asks, *answers):
            assert line == line.strip() and line.isascii() and len(line) < 160
    asked = [ask for asks, _ in (*GREETINGS, *FAREWELLS, *TOPICS) for ask in asks]
    assert len(asked) == len(set(asked)), "one question in two places would get two kinds of answer"


def test_code_in_plain_talk_is_python():
    for _, answers in TOPICS:
        for answer in answers:
            for code in re.findall(r"`([^`]+)`", answer):
                ast.parse(code if not code.endswith(":") else f"{code} pass")


def test_messages_are_json():
    for index in range(50):
        talk = dialogue_messages(1, index)
        assert json.loads(json.dumps(talk)) == talk
