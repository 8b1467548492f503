"""A report is replayed: honest ones pass, other weights are refused, and changed records are found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from coterie.benchmarks import load_benchmark
from coterie.checkpoints.directory import save_model
from coterie.config import ConfigError, DataError
from coterie.config.evaluate import EvalConfig
from coterie.evaluate.kept_records import line_of, samples_file
from coterie.evaluate.scoring import task_result
from coterie.evidence.claims import verified_claims
from coterie.evidence.keys import SigningKey
from coterie.evidence.statements import REPRODUCED
from coterie.families import config_from_hf
from coterie.nn.transformer import Transformer
from coterie.recipes.evaluate import REPORT, Evaluated, read_report, run_evaluation, write_report
from coterie.recipes.verify_report import replayed_items, report_folder, sign_reproduction, verify_report
from coterie.results.evaluation import ItemRecord
from coterie.text.tokenizer import Tokenizer
from tests.cli.support import MODEL

ITEMS = 40


def saved(folder: Path, seed: int) -> Path:
    tokenizer = Tokenizer.train(["How much is 12 + 345? Answer: 357.\n" * 9 + "Question: yes or no"], 300)
    shape = {"vocab_size": tokenizer.vocab_size, "max_position_embeddings": 256}
    model = Transformer(config_from_hf(MODEL | shape))
    model.initialise(seed)
    for parameter in model.parameters():
        parameter.data.add_(0.1)
    save_model(folder, model, tokenizer)
    return folder


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Evaluated]:
    folder = tmp_path_factory.mktemp("verify")
    model = saved(folder / "model", 0)
    given = {
        "model": str(model), "tasks": ["arithmetic"], "settings": {"arithmetic": {"n": ITEMS}},
        "out": str(folder / "report"), "max_tokens": 4, "form": "plain", "band": 0, "dtype": "float32",
    }  # fmt: skip
    return model, run_evaluation(EvalConfig.from_dict(given))


def tampered(found: Evaluated, out: Path, count: int) -> Path:
    """A report that is whole in itself, in which `count` items were turned to right."""
    (old,) = found.records.values()
    wrong = [one.id for one in old if not one.right][:count]
    right = {"score": 1.0, "right": True}
    return rewritten(found, out, [one.model_copy(update=right if one.id in wrong else {}) for one in old])


def rewritten(found: Evaluated, out: Path, records: list[ItemRecord], **changes: object) -> Path:
    """A report over other records, as who made it would write it; `changes`: to its only task."""
    (task,) = found.report.tasks
    samples = samples_file(out / task.samples.path, records)
    benchmark = load_benchmark("arithmetic", n=ITEMS)
    groups = {item.id: item.group for item in benchmark.items()}
    again = task_result(benchmark, records, groups, task.prompt, task.items, samples)
    kept = {"band": task.band, "detectors": task.detectors}
    changed = again.model_copy(update=kept | changes)
    write_report(found.report.model_copy(update={"tasks": [changed]}), {task.id: records}, out)
    (out / task.samples.path).parent.mkdir(exist_ok=True)
    (out / task.samples.path).write_text("".join(map(line_of, records)))
    return out


def test_an_honest_report_is_reproduced_and_signed(evaluated: tuple[Path, Evaluated], tmp_path: Path) -> None:
    model, report = evaluated
    found = verify_report(report.path, str(model), items=10, nonce="mine")
    assert found.reproduced and found.tasks[0].mismatches == 0 and found.tasks[0].items == 10
    assert found.tasks[0].finds["0.1"] == pytest.approx(0.7, abs=0.05)  # 4 of 40 items, 10 looked at
    again = verify_report(report.path, str(model), items=10, nonce="mine")
    assert again == found  # the nonce decides
    key, claims = SigningKey.new(), tmp_path / "claims.jsonl"
    sign_reproduction(found, key, claims)
    (statement,) = verified_claims(claims, [key.public])
    assert statement.predicate_type == REPRODUCED
    assert statement.subjects["weights"] == report.report.subject.weights_tensors
    assert statement.predicate["reproduced"] is True


def test_what_a_publisher_runs_again(evaluated: tuple[Path, Evaluated], tmp_path: Path) -> None:
    model, report = evaluated
    ran, lines = replayed_items(report.path, str(model), 10)
    assert (ran.items, ran.differ, lines) == (10, 0, [])
    changed = tampered(report, tmp_path / "changed", ITEMS)
    ran, lines = replayed_items(changed, str(model), 10)
    assert ran.differ == 10 and lines[0].startswith("arithmetic: item ") and "10 of 10 items" in lines[-1]
    ran, [line] = replayed_items(report.path, str(saved(tmp_path / "other", 1)), 10)
    assert ran.items == 0 and "is not the model of the report" in line and "--m 0" in line


def test_a_report_is_given_by_its_folder_or_file(evaluated: tuple[Path, Evaluated]) -> None:
    folder = evaluated[1].path
    assert report_folder(str(folder)) == report_folder(str(folder / REPORT)) == folder
    assert report_folder("/nowhere") == Path("/nowhere")


def test_another_models_weights_are_refused_before_an_item_is_replayed(
    evaluated: tuple[Path, Evaluated], tmp_path: Path
) -> None:
    other = saved(tmp_path / "other", 1)
    with pytest.raises(ConfigError, match=r"is not the model of the report: its weights \(weights_tensors\)"):
        verify_report(evaluated[1].path, str(other))


def test_changed_records_are_found_and_not_signed(evaluated: tuple[Path, Evaluated], tmp_path: Path) -> None:
    model, report = evaluated
    folder = tampered(report, tmp_path / "changed", 4)
    assert read_report(folder)  # whole in itself
    found = verify_report(folder, str(model), items=ITEMS)
    assert not found.reproduced and found.tasks[0].mismatches == 4
    assert "score 1 in the report, 0 now" in found.tasks[0].first[0]
    with pytest.raises(ConfigError, match="nothing is signed"):
        sign_reproduction(found, SigningKey.new(), tmp_path / "claims.jsonl")
    assert not (tmp_path / "claims.jsonl").exists()


def test_a_score_that_was_changed_alone_is_refused(evaluated: tuple[Path, Evaluated], tmp_path: Path) -> None:
    """Every record is honest here, so that no replay of records finds it."""
    model, report = evaluated
    (task,) = report.report.tasks
    better = task.score.model_copy(update={"value": task.score.value + 0.02})
    folder = rewritten(report, tmp_path / "changed", report.records[task.id], score=better)
    with pytest.raises(ConfigError, match="its records give 0"):
        verify_report(folder, str(model), items=1)
    folder = rewritten(report, tmp_path / "items", report.records[task.id], items="sha256:" + "0" * 64)
    with pytest.raises(DataError, match="the report's 'items' is not what"):
        verify_report(folder, str(model), items=1)


def test_items_that_were_left_out_or_doubled_are_refused(
    evaluated: tuple[Path, Evaluated], tmp_path: Path
) -> None:
    model, report = evaluated
    (records,) = report.records.values()
    folder = rewritten(report, tmp_path / "fewer", records[2:])
    with pytest.raises(DataError, match="has 38 records that are not one for each of the 40 replies"):
        verify_report(folder, str(model), items=1)
    folder = rewritten(report, tmp_path / "doubled", [records[1], *records[1:]])
    with pytest.raises(DataError, match="has 40 records that are not one for each"):
        verify_report(folder, str(model), items=1)


def test_a_noisy_replay_passes_honest_reports_and_finds_many_changes(
    evaluated: tuple[Path, Evaluated], tmp_path: Path
) -> None:
    model, report = evaluated
    assert verify_report(report.path, str(model), items=ITEMS, noisy=True).reproduced
    folder = tampered(report, tmp_path / "changed", 30)
    found = verify_report(folder, str(model), items=ITEMS, noisy=True)
    assert not found.reproduced and found.tasks[0].p_lost is not None and found.tasks[0].p_lost < 0.001


def test_records_that_are_not_the_reports_are_refused(
    evaluated: tuple[Path, Evaluated], tmp_path: Path
) -> None:
    model, report = evaluated
    folder = tampered(report, tmp_path / "changed", 4)
    (folder / REPORT).write_text((report.path / REPORT).read_text())
    with pytest.raises(ConfigError, match="other records than the report was made of"):
        verify_report(folder, str(model))
    data = json.loads((report.path / REPORT).read_text())
    assert data["settings"]["max_tokens"] == 4
