"""Published test sets, read from small files of exactly their layout."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from coterie.benchmarks import BenchmarkItem, ItemReply, load_benchmark, write_items
from coterie.benchmarks.check import check_benchmark
from coterie.config import ConfigError


def _lines(path: Path, rows: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


GSM8K = [
    {
        "question": "A box holds 24 eggs. How many eggs do 3 boxes hold?",
        "answer": "3 boxes hold 3*24 = <<3*24=72>>72 eggs.\n#### 72",
    },
    {
        "question": "A town had 900 people; 350 came.",
        "answer": "900+350=<<900+350=1250>>1,250\n#### 1,250",
    },
]


def test_gsm8k(tmp_path: Path) -> None:
    path = _lines(tmp_path / "test.jsonl", GSM8K)
    benchmark = load_benchmark(f"gsm8k:{path}")
    first, second = benchmark.items()
    assert (first.answer, second.answer, first.id) == ("72", "1250", "gsm8k-1")
    assert first.source["first_published"] == "2021-10-27"
    for text, score, lenient in (
        ("Answer: 1250", 1, 1),
        ("Answer: 1,250", 1, 1),
        ("Answer: $1250.00", 1, 1),
        ("That makes\n#### 1250", 0, 1),
        ("so 1,250 people.", 0, 1),
        ("Answer: 1251", 0, 0),
    ):
        verdict = benchmark.judge(second, ItemReply(text=text))
        assert (verdict.score, verdict.lenient) == (score, lenient), text
    assert check_benchmark(benchmark).passed
    assert len(load_benchmark(f"gsm8k:{path}", n=1).items()) == 1


def test_gsm8k_as_parquet(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(GSM8K), tmp_path / "test-00000-of-00001.parquet")
    benchmark = load_benchmark(f"gsm8k:{tmp_path / 'test-00000-of-00001.parquet'}")
    assert [item.answer for item in benchmark.items()] == ["72", "1250"]


def test_mmlu_as_csv(tmp_path: Path) -> None:
    folder = tmp_path / "test"
    folder.mkdir()
    (folder / "anatomy_test.csv").write_text(
        '"Which bone is in the arm, not the leg?",Femur,Humerus,Tibia,Fibula,B\n'
        '"A question\nof two lines?","one, two",three,four,five,D\n'
    )
    (folder / "virology_test.csv").write_text("What is a virus?,w,x,y,z,A\n")
    benchmark = load_benchmark(f"mmlu:{tmp_path}")
    items = benchmark.items()
    assert [item.answer for item in items] == [1, 3, 0]
    assert [item.group for item in items] == ["anatomy", "anatomy", "virology"]
    assert "A. Femur\nB. Humerus" in items[0].question and items[0].choices == ("A", "B", "C", "D")
    right = benchmark.judge(items[0], ItemReply(logprobs=(-3, -1, -2, -4), lengths=(1, 1, 1, 1)))
    assert right.right and right.extracted == "B"
    assert check_benchmark(benchmark).passed


def test_mmlu_as_rows(tmp_path: Path) -> None:
    rows = [{"question": "Why?", "subject": "anatomy", "choices": ["a", "b", "c", "d"], "answer": 2}]
    benchmark = load_benchmark(f"mmlu:{_lines(tmp_path / 'test.jsonl', rows * 2)}")
    item, again = benchmark.items()  # published files hold some questions twice
    assert (item.answer, item.group) == (2, "anatomy")
    assert item.id != again.id and item.cluster == again.cluster
    write_items(benchmark, tmp_path / "items.jsonl")
    assert len(load_benchmark(str(tmp_path / "items.jsonl")).items()) == 2


def test_a_question_that_stands_there_twice_is_one_cluster(tmp_path: Path) -> None:
    items = load_benchmark(f"gsm8k:{_lines(tmp_path / 'test.jsonl', [*GSM8K, GSM8K[0]])}").items()
    assert [item.cluster for item in items] == ["gsm8k-1", "gsm8k-2", "gsm8k-1"]


HUMANEVAL = {
    "task_id": "HumanEval/0",
    "prompt": 'from typing import List\n\n\ndef largest(v: List[int]) -> int:\n    """Largest.\n    """\n',
    "entry_point": "largest",
    "canonical_solution": "    return max(v)\n",
    "test": (
        "\n\nMETADATA = {}\n\n\ndef check(candidate):\n    assert candidate([1, 3, 2]) == 3\n"
        "    assert candidate([-1]) == -1\n"
    ),
}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the sandbox needs Linux")
def test_humaneval(tmp_path: Path) -> None:
    path = tmp_path / "HumanEval.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(HUMANEVAL).encode() + b"\n"))
    benchmark = load_benchmark(f"humaneval:{path}")
    (item,) = benchmark.items()
    assert benchmark.executes and benchmark.metric == "pass@1"
    body = "def largest(v: List[int]) -> int:\n    return max(v)\n"
    replies = {
        f"```python\n{body}```": 1,
        f"Here it is:\n\n```python\n{body}```\nIt works.": 1,
        "    return max(v)\n": 1,
        "    return max(v)\n\ndef other():\n    return 1\nprint(largest(3))": 1,
        body: 1,
        "```python\ndef largest(v):\n    return v[0]\n```": 0,
        "```python\nimport os\nos._exit(0)\ndef largest(v):\n    return 0\n```": 0,
        "```python\nsmallest = min\n```": 0,
        "I cannot.": 0,
        "": 0,
    }
    verdicts = benchmark.judge_all([item] * len(replies), [ItemReply(text=text) for text in replies])
    assert [verdict.score for verdict in verdicts] == list(replies.values())
    assert not any(verdict.failed for verdict in verdicts)
    oracle = benchmark.oracle(item)
    assert oracle is not None and benchmark.judge(item, oracle).right


IFEVAL = [
    {
        "key": 1000,
        "prompt": "Write about tea. Use no commas and highlight at least 2 sections.",
        "instruction_id_list": ["punctuation:no_comma", "detectable_format:number_highlighted_sections"],
        "kwargs": [{}, {"num_highlights": 2}],
    },
    {
        "key": 1001,
        "prompt": "Say it in fewer than 10 words.",
        "instruction_id_list": ["length_constraints:number_words"],
        "kwargs": [{"relation": "less than", "num_words": 10, "keyword": None}],
    },
]


def test_ifeval(tmp_path: Path) -> None:
    benchmark = load_benchmark(f"ifeval:{_lines(tmp_path / 'input_data.jsonl', IFEVAL)}")
    first, second = benchmark.items()
    assert (first.id, first.group, second.group) == ("ifeval-1000", "several", "one")
    assert benchmark.judge(first, ItemReply(text="*Tea* is *good* tea")).right
    broken = benchmark.judge(first, ItemReply(text="*Tea*, is *good*"))
    assert broken.score == 0 and broken.extracted == "1 of 2" and "no_comma" in broken.why
    loose = benchmark.judge(first, ItemReply(text="Sure, here it is:\n*Tea* is *good*"))
    assert (loose.score, loose.lenient) == (0, 1)
    assert benchmark.judge(second, ItemReply(text="Short enough.")).right
    report = check_benchmark(benchmark)
    assert not [fault for fault in report.faults if "earns" not in fault], report.faults


BFCL = [
    {
        "id": "parallel_0",
        "question": [[{"role": "user", "content": "Weather in Berlin and in San Francisco, CA?"}]],
        "function": [
            {
                "name": "weather.get",
                "description": "Get the weather.",
                "parameters": {
                    "type": "dict",
                    "properties": {
                        "city": {"type": "string", "description": "The city."},
                        "days": {"type": "integer", "description": "How many."},
                        "limit": {"type": "float", "description": "A limit."},
                    },
                    "required": ["city"],
                },
            }
        ],
    }
]
ALLOWED = [
    {
        "id": "parallel_0",
        "ground_truth": [
            {"weather.get": {"city": ["Berlin", "Berlin, Germany"], "days": [1, ""], "limit": [2.0, ""]}},
            {"weather.get": {"city": ["San Francisco, CA"], "days": [1, ""], "limit": [""]}},
        ],
    }
]


def _bfcl(folder: Path) -> Any:
    _lines(folder / "BFCL_v3_parallel.json", BFCL)
    _lines(folder / "possible_answer" / "BFCL_v3_parallel.json", ALLOWED)
    irrelevant = {**BFCL[0], "id": "irrelevance_0"}
    irrelevant["question"] = [[{"role": "user", "content": "What is a triangle?"}]]
    _lines(folder / "BFCL_v3_irrelevance.json", [irrelevant])
    _lines(folder / "BFCL_v3_java.json", [{"id": "java_0"}])
    return load_benchmark(f"bfcl:{folder}")


def _call(city: Any, name: str = "weather_get", **more: Any) -> dict[str, Any]:
    return {"name": name, "arguments": {"city": city, **more}}


@pytest.mark.parametrize(
    ("calls", "score"),
    [
        ([_call("Berlin"), _call("San Francisco, CA")], 1),
        ([_call("san francisco CA"), _call("BERLIN, germany", days=1, limit=2)], 1),
        ([_call("Berlin", "weather.get"), _call("San Francisco, CA")], 1),
        ([{**_call("Berlin"), "arguments": '{"city": "Berlin"}'}, _call("San Francisco, CA")], 1),
        ([_call("Berlin")], 0),
        ([_call("Berlin"), _call("Berlin")], 0),
        ([_call("Berlin"), _call("San Francisco, CA"), _call("Berlin")], 0),
        ([_call("Berlin", days=1.0), _call("San Francisco, CA")], 0),
        ([_call("Berlin", days=True), _call("San Francisco, CA")], 0),
        ([_call("Berlin", colour="x"), _call("San Francisco, CA")], 0),
        ([_call("Berlin", limit=3.0), _call("San Francisco, CA")], 0),
        ([_call(None), _call("San Francisco, CA")], 0),
        ([{"name": "weather_get"}, _call("San Francisco, CA")], 0),
        ([], 0),
    ],
)
def test_bfcl(calls: list[dict[str, Any]], score: float, tmp_path: Path) -> None:
    benchmark = _bfcl(tmp_path)
    irrelevant, item = benchmark.items()
    assert (irrelevant.group, item.group) == ("irrelevance", "parallel")
    schema = item.tools[0]["function"]["parameters"]
    assert (item.tools[0]["function"]["name"], schema["type"]) == ("weather_get", "object")
    assert schema["properties"]["limit"]["type"] == "number"
    verdict = benchmark.judge(item, ItemReply(calls=tuple(calls)))
    assert verdict.score == score and bool(verdict.why) == (score == 0), verdict.why
    assert benchmark.judge(irrelevant, ItemReply(calls=tuple(calls))).score == (not calls)


def test_the_bfcl_s_right_replies(tmp_path: Path) -> None:
    benchmark = _bfcl(tmp_path)
    for item in benchmark.items():
        oracle = benchmark.oracle(item)
        assert oracle is not None and benchmark.judge(item, oracle).right


def test_the_items_are_written_and_read_without_the_copy(tmp_path: Path) -> None:
    copy = _lines(tmp_path / "test.jsonl", GSM8K)
    benchmark = load_benchmark(f"gsm8k:{copy}")
    write_items(benchmark, tmp_path / "items.jsonl")
    copy.unlink()
    again = load_benchmark(str(tmp_path / "items.jsonl"))
    assert [item.digest for item in again.items()] == [item.digest for item in benchmark.items()]
    assert again.judge(again.items()[0], ItemReply(text="Answer: 72")).right


def _mutated(rows: list[dict[str, Any]], **fields: Any) -> list[dict[str, Any]]:
    return [{name: value for name, value in {**rows[0], **fields}.items() if value is not ...}]


@pytest.mark.parametrize(
    ("kind", "rows", "message"),
    [
        ("gsm8k", _mutated(GSM8K, answer="seventy-two"), r"rows.jsonl:1: 'answer' does not end in a number"),
        ("gsm8k", _mutated(GSM8K, question=...), r"rows.jsonl:1: has no 'question'"),
        (
            "mmlu",
            [{"question": "a", "choices": ["x", "y"], "answer": 2}],
            r":1: the answer is 2; one of A, B",
        ),
        ("mmlu", [{"question": "a", "choices": "xy", "answer": 1}], r":1: 'choices' is .xy.; a list"),
        ("humaneval", _mutated([HUMANEVAL], test=...), r":1: has no 'test'"),
        ("ifeval", _mutated(IFEVAL, kwargs=[]), r":1: 2 instructions and 0 kwargs"),
        ("ifeval", _mutated(IFEVAL, kwargs=[{}, {}]), "sections has no 'num_highlights'"),
        ("ifeval", _mutated(IFEVAL, instruction_id_list=["a:b"], kwargs=[{}]), r"unknown instruction 'a:b'"),
        ("bfcl", BFCL, r"possible_answer/rows.jsonl: there is no such file"),
    ],
)
def test_faults(kind: str, rows: list[dict[str, Any]], message: str, tmp_path: Path) -> None:
    benchmark = load_benchmark(f"{kind}:{_lines(tmp_path / 'rows.jsonl', rows)}")
    with pytest.raises(ConfigError, match=message) as caught:
        benchmark.items()
    assert "\n" not in str(caught.value)


def test_copies_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="name your copy of it, as gsm8k:PATH; none comes with coterie"):
        load_benchmark("gsm8k")
    with pytest.raises(ConfigError, match="there is no such file"):
        load_benchmark(f"gsm8k:{tmp_path / 'none.jsonl'}").items()
    with pytest.raises(ConfigError, match="no such file"):
        load_benchmark(f"bfcl:{tmp_path}").items()
    (tmp_path / "a.csv").write_text("only,three,cells\n")
    with pytest.raises(ConfigError, match=r"a.csv:1: has 3 columns, not 6"):
        load_benchmark(f"mmlu:{tmp_path / 'a.csv'}").items()
    (tmp_path / "a.jsonl.gz").write_bytes(b"not packed")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_benchmark(f"humaneval:{tmp_path / 'a.jsonl.gz'}").items()


def test_an_item_of_another_file_can_be_judged() -> None:
    """The judge needs the item alone."""
    item = BenchmarkItem("x", ({"role": "user", "content": "?"},), "3")
    assert load_benchmark("gsm8k:none").judge(item, ItemReply(text="Answer: 3.0")).right
