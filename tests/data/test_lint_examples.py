"""Lint of examples: counts, tokens, what is learnt, and every fault with its line."""

# ruff: noqa: E501  # tables, one case a line

import json

import pytest

from coterie.data.lint_examples import holds_examples, lint_examples
from coterie.text import Tokenizer
from coterie.text.chat import shipped_template
from coterie.text.tokenizer import CHATML

GOOD = {"messages": [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"}]}
CALL = {
    "messages": [
        {"role": "user", "content": "1+1?"},
        {"role": "assistant", "content": None, "tool_calls": [{"name": "add", "arguments": {"a": 1}}]},
    ]
}


def write(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["user assistant 1+1? 2 Be brief."] * 5, 320)


def test_counts_lengths_and_preview(tmp_path, tokenizer):
    path = write(tmp_path / "a.jsonl", GOOD, GOOD, CALL)
    report = lint_examples([path], tokenizer, row_length=64, show=1)
    assert (report.format, report.examples, report.problems, report.sequences) == ("messages", 3, [], 3)
    sizes = sorted(len(tokenizer.encode(line, allow_special=True)) for line in (
        2 * ["<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n2<|im_end|>\n"]
        + ['<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call><|im_end|>\n']))  # fmt: skip
    assert report.tokens == {"shortest": sizes[0], "median": sizes[1], "90 %": sizes[2], "99 %": sizes[2], "longest": sizes[2]}  # fmt: skip
    assert report.filled == pytest.approx((sum(sizes) - 3) / (report.rows * 64))
    learnt = 2 * 2 + len(tokenizer.encode('<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call><|im_end|>', True))  # fmt: skip
    assert report.learnt == pytest.approx(learnt / sum(sizes))
    assert report.notes == [f"note: repeated examples: 1; the first: {path}:2 repeats {path}:1"]
    text = report.to_text()
    assert "<|im_start|>assistant\n[[2<|im_end|>]]\n" in text and text.endswith(
        "3 examples (messages), 0 problems"
    )
    assert "\033[32m2<|im_end|>\033[0m" in report.to_text(colour=True)
    assert json.loads(json.dumps(report.to_dict()))["preview"][0]["origin"] == f"{path}:1"


def test_faults_and_notes(tmp_path, tokenizer):
    nothing = {"messages": [{"role": "user", "content": "x"}]}
    long = {"messages": [GOOD["messages"][0], {"role": "assistant", "content": "x" * 500}]}
    path = write(tmp_path / "a.jsonl", GOOD, nothing, long)
    (tmp_path / "a.jsonl").open("a").write("{bad\n")
    report = lint_examples([path], tokenizer, row_length=64)
    assert [problem.line for problem in report.problems] == [2, 3, 4]
    assert "nothing to learn" in report.problems[0].message and "positions" in report.problems[1].message
    bare = lint_examples([path])
    assert (
        [problem.line for problem in bare.problems] == [4]
        and "--model" in bare.notes[0]
        and bare.tokens is None
    )


def test_calls_that_do_not_come_back(tmp_path, tokenizer):
    path = write(tmp_path / "a.jsonl", GOOD, CALL)
    twisted = CHATML.read_text().replace('"arguments": \' }}', '"args": \' }}')
    assert twisted != CHATML.read_text()
    strange = Tokenizer(tokenizer._json, tokenizer._config, twisted)
    report = lint_examples([path], strange, 64)
    assert [(problem.line, problem.message.split(":")[0]) for problem in report.problems] == [(2, "turn 2")]
    assert "the call of 'add' is lost" in report.problems[0].message
    for name in ("mistral", "qwen3", "olmoe", "deepseek_v3"):
        family = Tokenizer(tokenizer._json, tokenizer._config, shipped_template(name))
        report = lint_examples([path], family, 400)
        assert report.problems == [] and not any("stops a reply" in note for note in report.notes)


def test_replies_without_an_end_are_warned_of(tmp_path, tokenizer):
    # Its marks are no tokens here.
    foreign = Tokenizer(tokenizer._json, tokenizer._config, shipped_template("llama4"))
    report = lint_examples([write(tmp_path / "a.jsonl", GOOD)], foreign, 400)
    (warning,) = report.warnings
    assert str(warning).startswith(f"{tmp_path}/a.jsonl:1: warning: the reply does not end with a stop token")
    assert report.to_text().endswith("0 problems, 1 warnings")


def test_templates_that_rewrite_are_reported(tmp_path, tokenizer):
    forgetful = (
        "{% for m in messages %}[{{ m.role }}]{% if loop.last %}{{ m.content }}{% endif %}{% endfor %}"
    )
    path = write(tmp_path / "a.jsonl", {"messages": GOOD["messages"] * 2})
    report = lint_examples([path], Tokenizer(tokenizer._json, tokenizer._config, forgetful), 64)
    assert "rewrites turn 2" in report.problems[0].message


def test_examples_are_recognised_among_plain_text(tmp_path):
    chats, texts = write(tmp_path / "a.jsonl", GOOD), write(tmp_path / "b.jsonl", {"text": "x"})
    (tmp_path / "c.txt").write_text("x")
    (tmp_path / "d").mkdir()
    write(tmp_path / "d" / "x.jsonl", {"prompt": "a", "completion": "b"})
    assert holds_examples(chats) and holds_examples(chats + "#1") and holds_examples(str(tmp_path / "d"))
    assert all(map(holds_examples, ("starter", "tools", "tools#3", "starter:0.5", "-")))
    for source in (texts, str(tmp_path / "c.txt"), str(tmp_path), "nothing", "primer"):
        assert not holds_examples(source)


def test_the_conversations_that_come_with_coterie_have_no_fault(tokenizer):
    report = lint_examples(["starter"], tokenizer, 2048)
    assert report.problems == [] and report.notes == [] and report.examples > 100
