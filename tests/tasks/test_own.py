"""A user's own task: Python or JSONL, and one line for each fault of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from coterie.tasks import load_task
from coterie.tasks.check import check_task
from coterie.tasks.own import OwnTask
from coterie.tasks.problem import TaskError

TEN_LINES = """
def tasks():
    for a in range(10, 30):
        for b in range(10, 20):
            yield {"prompt": f"What is {a} + {b}?", "answer": a + b, "reply": str(a + b)}


def reward(task, reply):
    return float(reply.strip() == str(task["answer"]))
"""


def written(folder: Path, text: str, name: str = "sums.py") -> str:
    path = folder / name
    path.write_text(text)
    return str(path)


def test_ten_lines_of_python(tmp_path: Path) -> None:
    family = load_task(written(tmp_path, TEN_LINES))
    report = check_task(family, 60)
    assert report.passed, report.faults
    assert isinstance(family, OwnTask) and family.name == "sums"
    assert family.count("train") + family.count("val") + family.count("test") == 200
    assert family.count("test") >= 3
    problem = family.problem(0, 0)
    assert family.judge(problem, family.oracle(problem)).right
    orders = [[family.problem(0, i, "train", seed).id for i in range(200)] for seed in (0, 1)]
    assert orders[0] != orders[1] and set(orders[0]) == set(orders[1])


def test_jsonl_in_published_forms(tmp_path: Path) -> None:
    rows = [{"question": f"{i} + 1 000?", "answer": f"We add.\n#### {i + 1000:,}"} for i in range(60)]
    family = load_task(written(tmp_path, "\n".join(map(json.dumps, rows)), "gsm.jsonl"))
    problem = family.problem(0, 0)
    number = problem.answer.replace(",", "")
    for reply, right in (
        (number, True),
        (problem.answer, True),
        (f"{number}.0", True),
        ("12", False),
        ("x", False),
    ):
        assert family.judge(problem, f"Answer: {reply}").right == right, reply
    assert check_task(family, 60).passed


@pytest.mark.parametrize(
    ("returned", "why"),
    [
        ("1 / 0", "reward raised ZeroDivisionError: division by zero"),
        ("float('nan')", "reward gave nan for 'right'; give a number from 0 to 1"),
        ("'yes'", "reward gave 'yes' for 'right'"),
        ("None", "reward gave None for 'right'"),
        ("1e9", "reward gave 1e+09 for 'right'; rewards are from 0 to 1"),
        ("{'right': 1, 'short': -2}", "reward gave -2 for 'short'"),
    ],
)
def test_a_broken_reward_is_no_reward(tmp_path: Path, returned: str, why: str) -> None:
    text = TEN_LINES.replace('float(reply.strip() == str(task["answer"]))', returned)
    family = load_task(written(tmp_path, text))
    verdict = family.judge(family.problem(0, 0), "x")
    assert verdict.failed and verdict.why.startswith("sums.py: ") and why in verdict.why
    report = check_task(family, 20)
    assert any("the checker failed on" in line and why in line for line in report.faults)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.py", "x = 1", "a.py: it defines no function reward"),
        ("a.py", "def reward(task, reply): return 0", "a.py: it defines no tasks"),
        ("a.py", "import nothing_of_this_name", "a.py: it cannot be loaded: ModuleNotFoundError"),
        ("a.py", "def reward(t, r): return 0\ndef tasks(): raise ValueError('x')", "raised ValueError: x"),
        ("a.py", "def reward(t, r): return 0\ndef tasks(): return [3]", "gave a int as problem 1"),
        ("a.py", "def reward(t, r): return 0\ntasks = 'no.jsonl'", "no.jsonl: there is no such file"),
        ("a.jsonl", '{"prompt": "x"}', "a.jsonl: problem 1: it has no answer; name one of answer"),
        ("a.jsonl", '{"prompt": "x", "answer": [1]}', "problem 1: its answer is neither a text nor a number"),
        ("a.jsonl", '{"answer": "x"}', "problem 1: it has no prompt; name one of prompt"),
        ("a.jsonl", '{"prompt": "x", "answer": "y"}\n[', "a.jsonl:2: it is not JSON"),
        ("a.jsonl", "3", "a.jsonl:1: it is not an object"),
        ("a.jsonl", "", "there is no problem to train on"),
        ("a.jsonl", "\udcff", "it cannot be read"),
    ],
)
def test_one_line_for_each_fault(tmp_path: Path, name: str, text: str, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(TaskError) as caught:
        load_task(str(path))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_file() -> None:
    with pytest.raises(TaskError, match=r"no\.py: there is no such file of a task"):
        load_task("no.py")
