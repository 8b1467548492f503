"""The plan, the looks and the training data of a report."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from coterie.benchmarks import load_benchmark
from coterie.checkpoints.directory import save_model
from coterie.config import ConfigError
from coterie.config.evaluate import EvalConfig
from coterie.config.files import write_text
from coterie.contamination.builder import IndexBuilder
from coterie.contamination.index import ContaminationIndex
from coterie.contamination.lineage import TRAINING, named_stage
from coterie.evidence.ledger import Ledger
from coterie.infer.model import save
from coterie.recipes.evaluate import lock, run_evaluation
from coterie.text.tokenizer import CHATML
from tests.agents.models import PLAIN, chat_model
from tests.cli.support import call, fails


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny"
    save(chat_model(PLAIN), path)
    return path


def settings(model: Path, out: Path, **more: object) -> EvalConfig:
    tasks = {"tasks": ("arithmetic",), "settings": {"arithmetic": {"n": 12}}}
    given = {"model": str(model), "out": str(out), "max_tokens": 6, "band": 0} | tasks
    return EvalConfig.from_dict(given | more)


def test_a_plan_is_followed_or_refused(model: Path, tmp_path: Path) -> None:
    ledger = {"ledger": str(tmp_path / "looks.jsonl")}
    config = settings(model, tmp_path / "out", **ledger)
    plan = lock(config, tmp_path / "plan.json")
    follow = ledger | {"plan": str(tmp_path / "plan.json")}
    report = run_evaluation(settings(model, tmp_path / "out", **follow)).report
    assert report.plan == plan.facts() and report.plan is not None and report.plan.ledger_pos == 0
    assert report.plan.locked_at <= report.created
    with pytest.raises(ConfigError, match="plan is locked once"):
        lock(config, tmp_path / "plan.json")
    for change, says in (
        ({"max_tokens": 7}, "max_tokens=6"),
        ({"limit": 5}, "arithmetic has other items"),
        ({"tasks": ("arithmetic", "facts")}, "facts is only in one of the two"),
        ({"settings": {"arithmetic": {"n": 13}}}, "arithmetic has other items"),
    ):
        with pytest.raises(ConfigError, match=says) as caught:
            run_evaluation(settings(model, tmp_path / "other", **(follow | change)))
        assert "\n" not in str(caught.value) and not (tmp_path / "other").exists()


def test_looks_are_counted_once_for_each_result(model: Path, tmp_path: Path) -> None:
    given = {"ledger": str(tmp_path / "looks.jsonl")}
    first = run_evaluation(settings(model, tmp_path / "out", **given)).report
    again = run_evaluation(settings(model, tmp_path / "out", **given)).report
    assert first.looks is not None and first.looks == again.looks and first.looks.looks == {"arithmetic": 1}
    save(chat_model(PLAIN, seed=4), tmp_path / "second")
    other = run_evaluation(settings(tmp_path / "second", tmp_path / "out2", **given)).report
    entries = Ledger(given["ledger"]).check([first.looks.head])
    assert other.looks is not None and other.looks.checkpoints == len({e.tensor_digest for e in entries}) == 2
    assert other.looks.looks == {"arithmetic": 2} and "arithmetic" in other.looks.corrected


def test_items_of_the_training_data_are_told_apart(tmp_path: Path) -> None:
    """Planted items are contaminated; without an index nothing is called clean."""
    random, mine = np.random.default_rng(0), tmp_path / "mine.jsonl"
    rows = [
        {
            "id": f"q{n}",
            "prompt": " ".join(f"word{w}" for w in random.integers(0, 500, 16)),
            "answer": f"a{n}",
        }
        for n in range(30)
    ]
    mine.write_text("".join(json.dumps(row) + "\n" for row in rows))
    items = load_benchmark(str(mine)).items()
    planted = {item.id for item in items[:10]}
    builder, tokens = IndexBuilder("pretrain"), 0
    for item in items:
        text = (
            f"{item.question}\n{item.answer}" if item.id in planted else f"Nothing is said about {item.id}."
        )
        builder.add(text, len(text.split()), source="corpus")
        tokens += len(text.split())
    folder = tmp_path / "trained" / "index"
    folder.mkdir(parents=True)
    builder.finish(tokens).write(folder / "pretrain.index")
    more = {"tasks": (str(mine),), "settings": {}}
    tiny = chat_model(PLAIN, 1024)
    save(tiny, tmp_path / "plain-model")
    plain = run_evaluation(settings(tmp_path / "plain-model", tmp_path / "plain", **more)).report
    assert plain.tasks[0].splits is None  # nobody knows what it was trained on
    entry = named_stage("pretrain", ContaminationIndex.open(folder / "pretrain.index"), tokens)
    save_model(
        tmp_path / "trained" / "model", tiny.model, tiny.tokenizer,
        extra={TRAINING: [entry.to_dict()]},
    )  # fmt: skip
    done = run_evaluation(settings(tmp_path / "trained" / "model", tmp_path / "out", **more))
    (task,) = done.report.tasks
    assert task.splits is not None and task.splits.contaminated.items == 10 and task.splits.clean.items == 20
    assert f"{task.id}:D1" in done.report.flags and done.report.verdict == "WARN"
    (stage,) = done.report.training.stages
    assert stage.name == "pretrain" and stage.index == f"sha256:{entry.index}" and stage.index_coverage == 1
    (folder / f"{entry.stage}.index").unlink()
    gone = run_evaluation(settings(tmp_path / "trained" / "model", tmp_path / "gone", **more)).report
    assert gone.tasks[0].splits is None and gone.training.stages[0].index is None


def test_safety_and_invariance_are_in_the_report(tmp_path: Path) -> None:
    tasks = ("arithmetic", "safety-refusals", "safety-injection")
    more = {"tasks": tasks, "limit": 2, "invariance": 2, "max_tokens": 4, "effort": "none"}
    save(chat_model(CHATML.read_text(), 1024), tmp_path / "tools")
    report = run_evaluation(settings(tmp_path / "tools", tmp_path / "out", **more)).report
    assert report.safety is not None and {one.task for one in report.safety.measures} >= {"safety-refusals"}
    assert report.tasks[0].invariance is not None and report.exec_profile.batch_invariant is True
    tools = report.task("safety-injection")
    assert tools is not None and tools.invariance is None


def test_the_command_locks_and_follows(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan, asked = (
        str(tmp_path / "p.json"),
        ("arithmetic", "settings.arithmetic.n=12", "max_tokens=4", "band=0"),
    )
    call("eval", "lock", str(model), *asked, "-o", plan)
    assert "locked 20" in capsys.readouterr().out
    out, looks = str(tmp_path / "out"), f"ledger={tmp_path / 'looks.jsonl'}"
    call("eval", str(model), *asked, f"plan={plan}", looks, "-o", out, "--json")
    assert json.loads(capsys.readouterr().out)["report"]["plan"]["digest"].startswith("sha256:")
    call("eval", str(model), *asked, looks, "-o", out)
    assert "looks     arithmetic 1; 1 checkpoints" in capsys.readouterr().out
    write_text(tmp_path / "p.json", "{}")
    assert "'tasks' is missing" in fails(capsys, "eval", str(model), *asked, f"plan={plan}", "-o", out)
