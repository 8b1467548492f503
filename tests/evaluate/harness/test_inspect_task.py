"""Tasks of inspect_ai: its verdicts on replies from here, alone and together, and one-line errors."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("inspect_ai")

import coterie
from coterie.benchmarks.item import ItemReply
from coterie.config import ConfigError
from coterie.config.evaluate import EvalConfig
from coterie.evaluate.asking import ReplyOptions
from coterie.evaluate.harness.inspect_subject import InspectSubject
from coterie.evaluate.harness.inspect_task import inspect_benchmarks
from coterie.evaluate.local_subject import LocalSubject
from coterie.evaluate.scoring import score_benchmark
from coterie.recipes.evaluate import run_evaluation
from coterie.recipes.verify_report import verify_report
from tests.evaluate.harness.support import SHAPE, save_model, sentence

TASKS = """
from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.scorer import Score, accuracy, includes, match, model_graded_fact, scorer
from inspect_ai.solver import chain, generate, system_message, user_message

SAMPLES = {samples!r}


def samples(count=None):
    return [Sample(input=question, target=target) for question, target in SAMPLES[:count]]


@task
def holds(count=12):
    return Task(dataset=samples(count), solver=generate(), scorer=includes(), version=3)


@task
def twice():
    return Task(
        dataset=[Sample(input=word, target="e") for word in ("river", "stone", "paper", "table")],
        solver=chain(system_message("green"), generate(), user_message("silver"), generate()),
        scorer=includes(),
    )


@task
def graded():
    return Task(dataset=samples(2), solver=generate(), scorer=model_graded_fact())


@task
def boxed():
    return Task(dataset=samples(2), solver=generate(), scorer=includes(), sandbox="local")


@task
def far():
    from inspect_ai.dataset import hf_dataset
    return Task(dataset=hf_dataset("nobody/nothing", split="test", trust=False), scorer=match())


@task
def long():
    return Task(
        dataset=[*samples(2), Sample(input="river " * 900, target="x")], solver=generate(), scorer=includes()
    )


@scorer(metrics=[accuracy()])
def many_points():
    async def score(state, target):
        return Score(value=7)
    return score


@task
def points():
    return Task(dataset=samples(2), solver=generate(), scorer=many_points())
"""


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> LocalSubject:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SHAPE, "max_position_embeddings", 512)
        path = save_model(tmp_path_factory.mktemp("model"), "moe")
    return LocalSubject(coterie.load(path, dtype="float32"))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tasks, half of whose targets are letters that most replies hold."""
    draw = random.Random(5)
    samples = [(sentence(draw), "e" if number % 2 else "zebra") for number in range(12)]
    file = tmp_path_factory.mktemp("tasks") / "mine.py"
    file.write_text(TASKS.format(samples=samples))
    return file


def records_of(subject: LocalSubject, name: str, limit: int | None = None, tokens: int = 8) -> list[Any]:
    (benchmark,) = inspect_benchmarks(name)
    options = ReplyOptions(max_tokens=tokens, reasoning_tokens=0)
    return score_benchmark(InspectSubject(subject, benchmark), benchmark, options, limit=limit).records


def test_scores_are_those_of_the_tasks_scorer(subject: LocalSubject, path: Path) -> None:
    (benchmark,) = inspect_benchmarks(f"inspect:{path}@holds")
    assert benchmark.name == f"inspect:{path}@holds" and benchmark.version.endswith("/3")
    records = records_of(subject, f"inspect:{path}@holds")
    assert [record.id for record in records] == [str(number) for number in range(1, 13)]
    for record, item in zip(records, benchmark.items(), strict=True):
        assert record.right == (str(item.answer).lower() in record.reply.lower())
    assert any(record.right for record in records) and not all(record.right for record in records)
    direct = subject.replies(
        benchmark.items(), ReplyOptions(max_tokens=8, reasoning_tokens=0)
    )  # one user's message each
    assert [record.reply for record in records] == [reply.text for reply in direct]
    assert [record.tokens for record in records] == [reply.tokens for reply in direct]


def test_a_task_is_given_its_parameters_and_items_bind_them(path: Path) -> None:
    (few,) = inspect_benchmarks(f"{path}@holds", {"count": 3})
    (all_,) = inspect_benchmarks(f"{path}@holds")
    assert len(few.items()) == 3 and len(all_.items()) == 12
    assert few.items()[0].digest != all_.items()[0].digest
    assert few.items()[0].digest == inspect_benchmarks(f"{path}@holds", {"count": 3})[0].items()[0].digest


def test_a_solver_of_several_steps_has_the_same_result_alone(subject: LocalSubject, path: Path) -> None:
    together = records_of(subject, f"{path}@twice", tokens=2)
    alone = records_of(subject, f"{path}@twice", limit=1, tokens=2)
    assert together[0] == alone[0]
    assert not any(record.failed for record in together)
    assert max(record.tokens for record in together) > 2  # both replies count


def test_what_does_not_fit_fails_by_itself(subject: LocalSubject, path: Path) -> None:
    records = records_of(subject, f"{path}@long")
    assert [record.failed for record in records] == [False, False, True]
    assert records[2].why.endswith("the model has 512 positions")


@pytest.mark.parametrize(
    ("task", "says"),
    [
        ("graded", "asks a model to grade replies, and there is none"),
        ("points", "many_points 7 is not between 0 and 1"),
    ],
)
def test_a_score_that_is_none_is_refused(subject: LocalSubject, path: Path, task: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        records_of(subject, f"{path}@{task}")
    assert "\n" not in str(caught.value)


def test_what_stands_in_the_way_is_one_line(path: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    empty = tmp_path / "empty.py"
    empty.write_text("x = 1\n")
    for name, says in (
        (f"{tmp_path}/nowhere.py", "there is no such file"),
        ("no_such_task", "inspect_ai has no such task"),
        (str(empty), "holds no task"),
        (f"{path}@boxed", "runs code in a sandbox; allow it with allow_code=true"),
        (f"{path}@far", "needs (the data set|something from the network)"),
    ):
        with pytest.raises(ConfigError, match=says) as caught:
            inspect_benchmarks(f"inspect:{name}")
        assert "\n" not in str(caught.value)
    assert inspect_benchmarks(f"{path}@boxed", execute=True)[0].executes


def test_a_reply_from_elsewhere_has_no_verdict(path: Path) -> None:
    (benchmark,) = inspect_benchmarks(f"{path}@holds")
    assert benchmark.judge(benchmark.items()[0], ItemReply(text="e")).failed


def test_a_report_is_written_and_replayed(subject: LocalSubject, path: Path, tmp_path: Path) -> None:
    task = f"inspect:{path}@holds"
    config = EvalConfig.from_dict(
        {
            "model": "model", "tasks": [task], "out": str(tmp_path / "out"), "max_tokens": 8,
            "settings": {task: {"count": 6}},
        },
        "test",
    )  # fmt: skip
    done = run_evaluation(config, subject)
    assert done.report.tasks[0].n == 6
    page = (tmp_path / "out" / "report.html").read_text()
    (benchmark,) = inspect_benchmarks(task, {"count": 6})
    assert all(item.question not in page for item in benchmark.items())
    assert verify_report(tmp_path / "out", "model", 6, subject=subject).reproduced
