"""A user's own benchmark: ten lines of YAML, every scorer, and one clear line for each fault."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coterie.benchmarks import ItemReply, load_benchmark, write_items
from coterie.benchmarks.check import check_benchmark
from coterie.benchmarks.scorers import same_json
from coterie.config import CoterieError

YAML = """\
name: rivers
data: rivers.jsonl
scorer: {scorer}
license: CC-BY-4.0
source: my own notes
first_published: 2026-05-01
"""
ROWS: list[dict[str, Any]] = [
    {"id": "a", "prompt": "Which river flows through Cologne?", "answer": ["Rhine", "the Rhine"]},
    {"id": "b", "prompt": "Which river flows through Paris?", "answer": "Seine", "cluster": "France"},
    {
        "id": "c",
        "messages": [
            {"role": "user", "content": "Hello"},
            {"role": "assistant", "content": "Hello."},
            {"role": "user", "content": "Which river flows through Rome?"},
        ],
        "answer": "Tiber",
        "first_published": "2026-06-02",
    },
]


def _write(folder: Path, rows: list[Any], scorer: str = "exact", more: str = "") -> str:
    (folder / "rivers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = folder / "rivers.yaml"
    path.write_text(YAML.format(scorer=scorer) + more)
    return str(path)


def test_exact(tmp_path: Path) -> None:
    benchmark = load_benchmark(_write(tmp_path, ROWS))
    items = benchmark.items()
    assert (benchmark.name, benchmark.mode, len(items)) == ("rivers", "reply", 3)
    assert items[0].question.startswith("Which river") and "Answer:" in items[0].question
    assert items[0].source == {
        "license": "CC-BY-4.0",
        "source": "my own notes",
        "first_published": "2026-05-01",
    }
    assert items[2].source["first_published"] == "2026-06-02" and len(items[2].turns) == 3
    assert items[1].cluster == "France"
    texts = ["Answer: the Rhine", "Answer: rhine", "It is the Rhine."]
    verdicts = [benchmark.judge(items[0], ItemReply(text=text)) for text in texts]
    assert [verdict.score for verdict in verdicts] == [1, 0, 0]
    assert len(benchmark.rewordings(items[0])) >= 8
    report = check_benchmark(benchmark)
    assert report.passed, report.faults


def test_without_yaml_the_columns_decide(tmp_path: Path) -> None:
    _write(tmp_path, ROWS)
    plain = load_benchmark(str(tmp_path / "rivers.jsonl"))
    assert (plain.name, plain.mode) == ("rivers", "reply")
    rows = [{"question": "2 + 2?", "choices": ["3", "4"], "answer": index} for index in (1,)]
    _write(tmp_path, rows)
    weighed = load_benchmark(str(tmp_path / "rivers.jsonl"))
    assert weighed.mode == "choice" and weighed.items()[0].choices == ("3", "4")
    assert "- 3\n- 4" in weighed.items()[0].question


@pytest.mark.parametrize(
    ("scorer", "more", "answer", "right", "wrong"),
    [
        ("exact", "ignore_case: true\n", "Rhine", "Answer: RHINE", "Answer: RHINES"),
        ("exact", 'form: ""\n', "Rhine", " Rhine\n", "The Rhine"),
        ("number", "", "1,250.5", "Answer: 1250.5", "Answer: 1250"),
        ("number", "tolerance: 0.5\n", 3, "Answer: 3.4", "Answer: 3.6"),
        ("number", "", "so 3 * 24 = 72\n#### 72", "Answer: 72", "Answer: 3"),
        ("contains", "", ["Rhine", "Rhein"], "am Rhein also", "rhein"),
        ("regex", "", r"\bRh(ine|ein)\b", "the Rhine.", "Rhineland"),
        ("json", "", {"a": [1, 2.0], "b": True}, '{"b": true, "a": [1.0, 2]}', '{"b": 1, "a": [1, 2]}'),
        ("json", "", {"a": 1}, ' {"a": 1} ', 'Here: {"a": 1}'),
    ],
)
def test_scorers(scorer: str, more: str, answer: Any, right: str, wrong: str, tmp_path: Path) -> None:
    rows = [{"prompt": "What?", "answer": answer}]
    benchmark = load_benchmark(_write(tmp_path, rows, scorer, more))
    (item,) = benchmark.items()
    assert benchmark.judge(item, ItemReply(text=right)).score == 1
    assert benchmark.judge(item, ItemReply(text=wrong)).score == 0
    assert benchmark.judge(item, ItemReply()).score == 0
    oracle = benchmark.oracle(item)
    assert (oracle is None) == (scorer == "regex")
    assert oracle is None or benchmark.judge(item, oracle).right


def test_a_schema_and_a_reply_around_the_value(tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    rows = [{"prompt": "What?", "answer": {"a": 1}, "schema": schema}]
    benchmark = load_benchmark(_write(tmp_path, rows, "json"))
    (item,) = benchmark.items()
    fenced = benchmark.judge(item, ItemReply(text='Here it is:\n```json\n{"a": 1}\n```'))
    assert (fenced.score, fenced.lenient, fenced.unparsed) == (0, 1, True)
    other = benchmark.judge(item, ItemReply(text='{"a": "x"}'))
    assert other.score == 0 and "$.a" in other.why


def test_a_python_reward(tmp_path: Path) -> None:
    (tmp_path / "reward.py").write_text(
        "def reward(row, reply):\n    return len(reply) == row['length'] if reply else 1 / 0\n"
    )
    rows = [{"prompt": "Four letters?", "length": 4}]
    path = _write(tmp_path, rows, "python", "reward: reward.py\n")
    benchmark = load_benchmark(path)
    (item,) = benchmark.items()
    assert [benchmark.judge(item, ItemReply(text=text)).score for text in ("four", "five!")] == [1, 0]
    failed = benchmark.judge(item, ItemReply())
    assert failed.failed and "reward raised ZeroDivisionError" in failed.why
    write_items(benchmark, tmp_path / "items.jsonl")
    again = load_benchmark(str(tmp_path / "items.jsonl"))
    assert again.judge(again.items()[0], ItemReply(text="four")).right


def test_a_file_of_items_needs_no_other_file(tmp_path: Path) -> None:
    benchmark = load_benchmark(_write(tmp_path, ROWS))
    write_items(benchmark, tmp_path / "items.jsonl")
    for name in ("rivers.yaml", "rivers.jsonl"):
        (tmp_path / name).unlink()
    again = load_benchmark(str(tmp_path / "items.jsonl"))
    assert [item.digest for item in again.items()] == [item.digest for item in benchmark.items()]
    assert again.judge(again.items()[0], ItemReply(text="Answer: Rhine")).right


GOOD = {"prompt": "What?", "answer": "x"}
CHOICE = {"prompt": "What?", "choices": ["x", "y"], "answer": "x"}


@pytest.mark.parametrize(
    ("rows", "scorer", "message"),
    [
        ([GOOD, {"prompt": "Why?"}], "exact", r"rivers.jsonl:2: the item has no answer; give one in the"),
        ([GOOD, {"prompt": "Why?", "answer": ""}], "exact", r":2: the item has no answer"),
        ([GOOD, {"prompt": "Why?", "answer": True}], "exact", r":2: the answer is True; give a text"),
        ([GOOD, {"answer": "x"}], "exact", r":2: has no 'prompt'"),
        ([GOOD, {"prompt": 3, "answer": "x"}], "exact", r":2: 'prompt' is 3; a text was expected"),
        ([GOOD, {"prompt": "  ", "answer": "x"}], "exact", r":2: the question is empty"),
        ([GOOD, GOOD], "exact", r":2: asks the same as .*rivers.jsonl:1; keep one of them"),
        (
            [{**GOOD, "id": 1}, {"id": 1, "prompt": "Why?", "answer": "x"}],
            "exact",
            r":2: has the id '1', as .*:1 does",
        ),
        ([{**GOOD, "colour": 1}], "exact", r":1: unknown field 'colour'; known are answer"),
        ([{**GOOD, "first_published": "soon"}], "exact", r":1: 'first_published' is 'soon'"),
        (
            [{**GOOD, "messages": [{"role": "assistant", "content": ""}]}],
            "exact",
            "end with a message of the",
        ),
        ([{**GOOD, "messages": ["hello"]}], "exact", r":1: 'messages' holds 'hello'"),
        ([{**GOOD, "messages": [{"role": "tool", "content": ""}]}], "exact", "has the role 'tool'"),
        ([{"prompt": "What?", "answer": "many"}], "number", r":1: the answer is 'many'; the scorer 'number'"),
        ([{"prompt": "What?", "answer": "("}], "regex", r":1: the answer is not a regular expression"),
        ([{"prompt": "What?", "answer": "x*"}], "regex", r"'x\*' matches an empty reply"),
        ([{**CHOICE, "answer": 2}], "choice", r":1: the answer is the index 2, and there are 2 choices"),
        ([{**CHOICE, "answer": "z"}], "choice", r":1: the answer is 'z', which is none of the choices"),
        ([{**CHOICE, "choices": ["x"]}], "choice", r":1: 'choices' must be a list of at least two texts"),
        ([{**CHOICE, "choices": ["x", "x"]}], "choice", r":1: 'choices' holds the same text twice"),
        ([GOOD], "choice", r":1: the answer has no choices"),
        ([{**GOOD, "schema": {"type": 3}}], "json", r":1: no valid JSON schema"),
        ([{**GOOD, "answer": {"n": 10**20}}], "json", r":1: has no canonical form"),
        ([3], "exact", r"rivers.jsonl:1: "),
        ([], "exact", "holds no item"),
    ],
)
def test_bad_rows(rows: list[Any], scorer: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(CoterieError, match=message) as caught:
        load_benchmark(_write(tmp_path, rows, scorer))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\ndata: hf://me/rows\n", "data 'hf://me/rows' needs the network; fetch the file first"),
        ("name: a\ndata: rows.jsonl\n", "rows.jsonl: there is no such file"),
        ("name: a\n", "'data' is missing"),
        ("name: a\ndata: b.jsonl\nscorer: bleu\n", "'scorer': Input should be 'exact', 'number'"),
        ("name: a\ndata: b.jsonl\nscorrer: exact\n", "unknown key 'scorrer' .did you mean 'scorer'"),
        ("name: a\ndata: b.jsonl\nscorer: python\n", "belong together"),
        ("name: a b\ndata: b.jsonl\n", "'name'"),
        ("name: a\ndata: b.jsonl\nfirst_published: soon\n", "'soon' is not a date"),
        ("name: a\ndata: rivers.jsonl\nscorer: python\nreward: none.py\n", "no such file of a reward"),
    ],
)
def test_bad_yaml(text: str, message: str, tmp_path: Path) -> None:
    _write(tmp_path, ROWS)
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(CoterieError, match=message):
        load_benchmark(str(tmp_path / "bad.yaml"))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(JSON, JSON)
def test_same_json_is_equality_up_to_truth_values(a: Any, b: Any) -> None:
    assert same_json(a, a) and same_json(a, b) == same_json(b, a)
    assert not same_json(a, b) or a == b
