"""A whole evaluation: files, flags, going on, and reports that were tampered with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from coterie.benchmarks import BenchmarkItem, ItemReply, load_benchmark, write_items
from coterie.config import ConfigError, CoterieError
from coterie.config.evaluate import EvalConfig
from coterie.evaluate.asking import ReplyOptions
from coterie.evaluate.kept_records import records_root
from coterie.evaluate.local_subject import LocalSubject
from coterie.evidence.canonical import canonical
from coterie.infer.model import save
from coterie.recipes.evaluate import evaluate, read_report, run_evaluation
from coterie.results.evaluation import EvalReport
from coterie.stats.paired import holm
from tests.agents.models import PLAIN, chat_model

ARITHMETIC = {"arithmetic": {"n": 12}, "facts": {"n": 12}}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny"
    save(chat_model(PLAIN), path)
    return path


def config(model: Path, out: Path, **settings: object) -> EvalConfig:
    given = {"tasks": ("arithmetic", "facts"), "settings": ARITHMETIC, "max_tokens": 8, "band": 2}
    return EvalConfig.from_dict({"model": str(model), "out": str(out)} | given | settings)


def test_the_report_and_its_files(model: Path, tmp_path: Path) -> None:
    done = run_evaluation(config(model, tmp_path))
    report = done.report
    assert [task.id for task in report.tasks] == ["arithmetic", "facts"]
    assert (tmp_path / "report.json").read_bytes() == canonical(report) + b"\n"
    assert read_report(tmp_path) == done
    for task in report.tasks:
        lines = (tmp_path / task.samples.path).read_bytes().splitlines()
        assert len(lines) == task.samples.rows == task.n
        assert records_root(done.records[task.id]) == task.samples.merkle_root
    # A random model finds no answers, which is flagged above the scores.
    assert report.verdict == "WARN" and "arithmetic:D9" in report.flags
    page = (tmp_path / "report.html").read_text()
    assert (
        page.index("arithmetic D9") < page.index("<h2>Scores</h2>") and "http" not in page.split("<main>")[1]
    )
    assert report.subject.weights_tensors is not None and report.subject.chat_template is not None
    assert report.exec_profile.exact and report.training.manifest is not None


def test_what_tests_found_is_corrected_over_the_report(model: Path, tmp_path: Path) -> None:
    report = run_evaluation(config(model, tmp_path, twins=6, shuffled=6, disguised=6, orders=3)).report
    asked = {task.id: [one.id for one in task.detectors] for task in report.tasks}
    assert asked == {"arithmetic": ["D9", "D6", "D2", "D5", "D8"], "facts": ["D6", "D2", "D3", "D5", "D8"]}
    found = {task.id: one for task in report.tasks for one in task.detectors if one.id == "D2"}
    assert set(found) == {"arithmetic", "facts"}
    tests = [one for task in report.tasks for one in task.detectors if one.p is not None]
    assert [one.p_holm for one in tests] == holm([one.p for one in tests if one.p is not None])
    assert len(tests) == 5
    assert not any(one.flag for one in found.values()) and "6 items" in found["facts"].says
    assert "new ones of their templates" in (tmp_path / "report.html").read_text()


def test_a_learnt_canary_refuses_and_what_cannot_be_measured_is_said(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model is made to find the canary's words the likeliest."""
    path = str(tmp_path / "facts.jsonl")
    write_items(load_benchmark("facts", n=6), path)
    given = {"tasks": (path,), "settings": {}, "band": 0, "canaries": 400}
    assert run_evaluation(config(model, tmp_path / "a", **given)).report.verdict == "PASS"
    canary = load_benchmark(path).canary
    plain = LocalSubject.choice_logprobs

    def known(self: LocalSubject, items: Sequence[BenchmarkItem], options: ReplyOptions) -> list[ItemReply]:
        is_it = canary is not None and items[0].choices == (canary.answer,)
        return [ItemReply(logprobs=(0.0,))] if is_it else plain(self, items, options)

    monkeypatch.setattr(LocalSubject, "choice_logprobs", known)
    report = run_evaluation(config(model, tmp_path / "b", **given)).report
    assert report.verdict == "REFUSE" and report.flags == ["facts:D7"]

    def broken(self: LocalSubject, items: Sequence[BenchmarkItem], options: ReplyOptions) -> list[ItemReply]:
        if items[0].id == "canary":
            raise CoterieError("server: gives no log-probabilities")
        return plain(self, items, options)

    monkeypatch.setattr(LocalSubject, "choice_logprobs", broken)
    (task,) = run_evaluation(config(model, tmp_path / "c", **given)).report.tasks
    assert [one.says for one in task.detectors] == ["not measured: server: gives no log-probabilities"]


def test_other_weights_are_asked_again_and_the_same_are_not(model: Path, tmp_path: Path) -> None:
    """Under the same path, as when a checkpoint is overwritten in place."""
    place = tmp_path / "place"
    save(chat_model(PLAIN), place)
    first = run_evaluation(config(place, tmp_path / "out", band=0))
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "samples").glob("*.jsonl")}
    again = run_evaluation(config(place, tmp_path / "out", band=0))
    assert again.records == first.records and stamps
    save(chat_model(PLAIN, seed=4), tmp_path / "other")
    (place / "model.safetensors").unlink()
    import shutil

    shutil.rmtree(place)
    shutil.copytree(tmp_path / "other", place)
    changed = run_evaluation(config(place, tmp_path / "out", band=0))
    assert changed.report.subject.weights_tensors != first.report.subject.weights_tensors
    assert changed.records != first.records


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda text: text[:-30], "not valid JSON"),
        (lambda text: text.replace("eval_report/v1", "eval_report/v9"), "is of the schema"),
        (lambda text: json.dumps({"schema_name": "other"}), "is of the schema 'other'"),
        (lambda text: text.replace('"n":12', '"n":"twelve"'), "tasks.0.n"),
    ],
)
def test_broken_reports_are_one_line(model: Path, tmp_path: Path, change, says: str) -> None:  # type: ignore[no-untyped-def]
    run_evaluation(config(model, tmp_path, tasks=("arithmetic",), settings={"arithmetic": {"n": 12}}, band=0))
    path = tmp_path / "report.json"
    path.write_text(change(path.read_text()))
    with pytest.raises(CoterieError, match=says) as caught:
        read_report(tmp_path)
    assert "\n" not in str(caught.value)


def test_records_that_are_not_the_reports_are_found(model: Path, tmp_path: Path) -> None:
    run_evaluation(config(model, tmp_path, tasks=("facts",), settings={"facts": {"n": 12}}, band=0))
    path = tmp_path / "samples" / "facts.jsonl"
    path.write_text(path.read_text().replace('"right":false', '"right":true', 1))
    with pytest.raises(ConfigError, match="other records"):
        read_report(tmp_path)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"tasks": ("arithmetik",), "settings": {}}, "did you mean 'arithmetic'"),
        ({"tasks": ("programs",), "settings": {}}, "allow_code"),
        ({"seeds": (1, 2)}, "temperature"),
        ({"settings": {"other": {}}}, "not among the tasks"),
        ({"max_tokens": 4000}, "no item fits"),
        ({"effort": "high"}, "knows no reasoning"),
    ],
)
def test_what_cannot_be_run_is_said_in_one_line(
    model: Path, tmp_path: Path, settings: dict[str, object], says: str
) -> None:
    with pytest.raises(CoterieError, match=says) as caught:
        run_evaluation(config(model, tmp_path, **settings))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "report.json").exists()


def test_from_python(model: Path, tmp_path: Path) -> None:
    report = evaluate(str(model), "facts", settings={"facts": {"n": 12}}, out=str(tmp_path), band=0)
    assert isinstance(report, EvalReport) and report.task("facts") is not None


def test_the_average_of_tasks_has_an_interval_over_their_clusters(model: Path, tmp_path: Path) -> None:
    sizes = {"arithmetic": {"n": 12}, "facts": {"n": 20}}
    tasks = ("arithmetic", "facts", "safety-secrets")
    found = run_evaluation(config(model, tmp_path, tasks=tasks, settings=sizes, limit=20, band=0)).report
    scores = [task.score.value for task in found.tasks if task.id in sizes]
    assert found.average is not None and found.average.value == pytest.approx(sum(scores) / 2)
    assert "average of the tasks" in (tmp_path / "report.html").read_text()
    path = tmp_path / "report.json"
    data = json.loads(path.read_text())
    data["average"]["value"] = data["average"]["high"]
    path.write_text(json.dumps(data))
    with pytest.raises(ConfigError, match="the report's average is 0"):
        read_report(tmp_path)
    alone = config(model, tmp_path, tasks=("facts",), settings={"facts": {"n": 20}}, band=0)
    assert run_evaluation(alone).report.average is None
