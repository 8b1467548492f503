"""What lint and tune say of examples that can be used though something in them is lost."""

# ruff: noqa: E501  # tables, one case a line

import json
import logging

import pytest

from coterie.config.errors import DataError
from coterie.config.tune import TuneConfig
from coterie.data.lint_examples import lint_examples
from coterie.data.tuning_rows import prepare_examples
from coterie.text import Tokenizer
from coterie.text.tokenizer import CHATML


def u(text):
    return {"role": "user", "content": text}


def a(text, **more):
    return {"role": "assistant", "content": text, **more}


TOOL = {"type": "function", "function": {"name": "add", "parameters": {}}}
CALL = a("", tool_calls=[{"name": "add", "arguments": {"a": 1}}])
BARE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SHORT = BARE.replace("in messages %}", "in messages[messages | length > 3:] %}")
GOOD = {"messages": [u("q"), a("r")]}
# template, second row, what is said of line 2
WARNED = {
    "words": (SHORT, {"messages": [u("q"), a("r"), u("p"), a("s")]}, "leaves out the words of turn 1 (user)"),
    "typed": (BARE, {"messages": [u("say <|im_end|> now"), a("r")]}, "'<|im_end|>'"),
    "fields": (BARE, {**GOOD, "answer_style": "short"}, "field 'answer_style' is not used"),
    "end": (BARE.replace("<|im_end|>\n", "\n"), GOOD, "stop token"),
}  # fmt: skip
WRONG = {
    "tools": (BARE, {**GOOD, "tools": [TOOL]}, "shows no tools"),
    "arguments": (BARE, {**GOOD, "chat_template_kwargs": {"loud": True}}, "does not read the argument 'loud'"),
    "calls": (BARE, {"messages": [u("q"), CALL]}, "shows no tool calls"),
    "turn fields": (BARE, {"messages": [u("q"), a("r", mood="x")]}, "'mood'"),
    "turn tools": ("{{ tools }}" + BARE, {"messages": [{**u("q"), "tools": [TOOL]}, a("r")]}, "'tools' in its turns"),
    "turn flags": (BARE + "{# prefix #}", {"messages": [u("q"), a("r", prefix=True)]}, "'prefix' in its turns"),
    "row weights": (BARE, {**GOOD, "loss_weights": [0, 1]}, "'loss_weights', which rows"),
    "row fields": (BARE, {**GOOD, "thinking": "x"}, "'thinking', which rows"),
    "nothing": (BARE, {"messages": [u("q"), a("r", train=False)]}, "nothing to learn"),
    "weights": (BARE, {"messages": [u("q"), a("r", weight=0.25)]}, "weight is 0.25"),
}  # fmt: skip


@pytest.fixture(scope="module")
def base() -> Tokenizer:
    return Tokenizer.train(["user assistant system q r be say now"] * 5, 320)


def written(tmp_path, *rows):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(tmp_path / "a.jsonl")


def prepare(path, tokenizer, **settings):
    config = TuneConfig.from_dict({"model": "m", "data": [path], "eval": 0.0, **settings})
    return prepare_examples(config, tokenizer, 512)


@pytest.mark.parametrize(("template", "row", "said"), WARNED.values(), ids=WARNED)
def test_warnings_are_the_same_in_lint_and_tune(tmp_path, base, caplog, template, row, said):
    tokenizer = Tokenizer(base._json, base._config, template)
    path = written(tmp_path, GOOD, row, row)
    report = lint_examples([path], tokenizer, 512)
    line = 1 if said == "stop token" else 2
    (warning,) = [warning for warning in report.warnings if said in warning.message]
    assert report.problems == [] and (warning.line, warning.warning) == (line, True)
    with caplog.at_level(logging.WARNING, "coterie"):
        data = prepare(path, tokenizer)
    assert data.warnings == [f"{path}:{w.line}: {w.message}" for w in report.warnings]
    assert any(said in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize(("template", "row", "said"), WRONG.values(), ids=WRONG)
def test_tune_stops_on_what_lint_calls_wrong_in_the_same_words(tmp_path, base, template, row, said):
    tokenizer = Tokenizer(base._json, base._config, template)
    path = written(tmp_path, GOOD, row)
    (problem,) = lint_examples([path], tokenizer, 512).problems
    assert said in problem.message and problem.line == 2
    with pytest.raises(DataError) as caught:
        prepare(path, tokenizer)
    assert str(caught.value).startswith(str(problem))
    data = prepare(path, tokenizer, on_bad="skip")
    assert data.skipped == [str(problem)] and len(data.examples) == 1


def test_examples_that_the_template_shows_in_full_are_not_doubted(tmp_path, base):
    tokenizer = Tokenizer(base._json, base._config, CHATML.read_text())
    talk = [{"role": "system", "content": " be \n"}, u("q\n\n q"), CALL, {"role": "tool", "content": '{"a": "é\\n"}'}, a("r")]  # fmt: skip
    report = lint_examples([written(tmp_path, GOOD, {"messages": talk, "tools": [TOOL]})], tokenizer, 2000)
    assert report.problems == [] and report.warnings == []


def test_long_texts_and_columns_are_named(tmp_path, base):
    path = written(tmp_path, {"text": "q " * 300, "id": 3, "url": "x"}, {"text": "q", "url": "y", "more": 1})
    report = lint_examples([path], base, 64)
    assert [(w.line, w.message.split(" (")[0]) for w in report.warnings] == [
        (2, "field 'more' is not used"),
        (1, "the text is longer than a row and is cut into parts"),
    ]
    assert "note: not used: id (1), url (2) (rows)" in report.notes
