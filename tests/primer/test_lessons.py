"""The lessons in the use of tools: the same for ever, right, and made of nothing that is kept for probes."""

import contextlib
import hashlib
import io
import itertools
import json

import jsonschema
import pytest

from coterie.config.errors import DataError
from coterie.data.examples import read_examples
from coterie.data.formats import ChatExample
from coterie.primer.arithmetic import reserved
from coterie.primer.lessons import COUNT, lessons
from coterie.sandbox.tools import Calculator
from coterie.text.tools import AGENT_SYSTEM


def test_the_same_for_ever() -> None:
    text = json.dumps(list(lessons(seed=0, count=40)), sort_keys=True)
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "8285252905b1c47b"
    assert text != json.dumps(list(lessons(seed=1, count=40)), sort_keys=True)


def test_every_call_is_offered_and_every_result_right() -> None:
    calls = {"calculator": 0, "python": 0, "": 0}
    for lesson in lessons():
        offered = {tool["function"]["name"]: tool["function"] for tool in lesson["tools"]}
        messages = lesson["messages"]
        assert messages[-1]["role"] == "assistant" and messages[-1]["content"]
        calls[""] += not any("tool_calls" in message for message in messages)
        for message, following in itertools.pairwise(messages):
            for call in message.get("tool_calls", ()):
                name, arguments = call["function"]["name"], call["function"]["arguments"]
                jsonschema.validate(arguments, offered[name]["parameters"])
                assert following["role"] == "tool" and following["content"] == _value(name, arguments)
                calls[name] += 1
    assert calls["calculator"] > 3 * COUNT and calls["python"] > 20 and calls[""] > COUNT / 8


def _value(name: str, arguments: dict[str, str]) -> str:
    if name == "calculator":
        assert not reserved(arguments["expression"])
        return Calculator().call(arguments, 1)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(arguments["code"], {})  # one expression of the lessons
    return printed.getvalue().rstrip()


def test_it_is_a_source_of_examples(tmp_path, monkeypatch) -> None:
    found = read_examples("tools")
    assert len(found.examples) == COUNT and not found.problems
    examples = [example for example in found.examples if isinstance(example, ChatExample)]
    heard = [example.messages[0].text for example in examples if example.messages[0].role == "system"]
    assert heard.count(AGENT_SYSTEM) > COUNT / 3 and len(set(heard)) > 4 and len(heard) < COUNT
    # As agents and as clients describe them.
    assert len({json.dumps(example.tools) for example in examples}) > 8
    assert str(examples[4].origin) == "tools:5"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tools").mkdir()
    with pytest.raises(DataError, match=r"examples that coterie ships and a path here; write \./tools"):
        read_examples("tools")
