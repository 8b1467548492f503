"""Exports: valid by the schemas of others, with the flags next to the scores."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from huggingface_hub import parse_eval_result_entries

from coterie.config import ConfigError, CoterieError
from coterie.config.files import file_sha256
from coterie.evidence.claims import read_claims
from coterie.evidence.statements import TEST_RESULT, verify_statement
from coterie.release.exports import export_release
from coterie.results.evaluation import EvalReport
from tests.release.released import key, write_model, write_report

SCHEMAS = Path(__file__).parent / "schemas"
FLAGS: dict[str, Any] = {"verdict": "WARN", "flags": ["lists:D9"]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and its report, which has a flag."""
    folder = tmp_path_factory.mktemp("exports")
    write_report(write_model(folder / "model"), folder / "report", **FLAGS)
    key().write(folder / "key")
    return folder


def schema(name: str) -> jsonschema.Draft7Validator:
    return jsonschema.Draft7Validator(json.loads((SCHEMAS / f"{name}.schema.json").read_text()))


def report(folder: Path) -> EvalReport:
    return EvalReport.from_dict(json.loads((folder / "report" / "report.json").read_text()))


def test_every_eval_ever(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "eee"
    files = export_release(folder / "report", "eee", out, name="owner/tiny")
    [record] = [out / name for name in files if name.endswith(".json")]
    data = json.loads(record.read_text())
    schema("eval").validate(data)
    assert data["schema_version"] == schema("eval").schema["version"]  # type: ignore[index]
    detail = data["detailed_evaluation_results"]
    assert file_sha256(out / detail["file_path"]) == detail["checksum"]
    rows = [json.loads(line) for line in (out / detail["file_path"]).read_text().splitlines()]
    for row in rows:
        schema("instance_level_eval").validate(row)
    assert len(rows) == detail["total_rows"] == 80
    scores = {one["evaluation_name"]: one["score_details"] for one in data["evaluation_results"]}
    for task in report(folder).tasks:
        assert scores[task.id]["score"] == task.score.value
        mean = [row["evaluation"]["score"] for row in rows if row["evaluation_name"] == task.id]
        assert sum(mean) / len(mean) == pytest.approx(task.score.value, abs=1e-12)
    assert scores["lists"]["details"]["flags"] == "D9" and scores["arithmetic"]["details"]["flags"] == "none"


def test_the_schemas_refuse_a_wrong_record(folder: Path, tmp_path: Path) -> None:
    [record, _] = sorted(export_release(folder / "report", "eee", tmp_path / "eee"))
    data = json.loads((tmp_path / "eee" / record).read_text())
    del data["model_info"]["additional_details"]["deployment_type"]
    with pytest.raises(jsonschema.ValidationError):
        schema("eval").validate(data)


def test_results_of_the_hub(folder: Path, tmp_path: Path) -> None:
    sets = {"lists": "owner/lists:hard"}
    [file] = export_release(folder / "report", "hf", tmp_path / "hf", datasets=sets)
    assert file == ".eval_results/lists.yaml"
    [entry] = parse_eval_result_entries(yaml.safe_load((tmp_path / "hf" / file).read_text()))
    assert (entry.dataset_id, entry.task_id) == ("owner/lists", "hard")
    assert entry.value == report(folder).tasks[1].score.value and "flag D9" in (entry.notes or "")


@pytest.mark.parametrize(
    ("changes", "result"),
    [({}, "PASSED"), (FLAGS, "WARNED"), ({**FLAGS, "verdict": "REFUSE"}, "FAILED")],
)
def test_in_toto(folder: Path, tmp_path: Path, changes: dict[str, Any], result: str) -> None:
    made = write_report(folder / "model", tmp_path / "report", **changes)
    [file] = export_release(tmp_path / "report", "in-toto", tmp_path / "out", folder / "key")
    [envelope] = read_claims(tmp_path / "out" / file)
    statement = verify_statement(envelope, [key().public])
    assert statement.predicate_type == TEST_RESULT and statement.predicate["result"] == result
    assert statement.subjects["weights_tensors"] == made.subject.weights_tensors
    lists = [statement.predicate[name] for name in ("passedTests", "warnedTests", "failedTests")]
    assert sorted(name for names in lists for name in names) == ["arithmetic", "lists"]
    assert ("lists" in lists[{"PASSED": 0, "WARNED": 1, "FAILED": 2}[result]]) is True


@pytest.mark.parametrize(
    ("to", "more", "words"),
    [
        ("xml", {}, "--to xml: is not a form"),
        ("in-toto", {}, "give --key"),
        ("hf", {}, "its tasks are arithmetic, lists"),
        ("hf", {"datasets": {"sums": "owner/sums"}}, "has no task sums"),
    ],
)
def test_what_is_missing_is_one_line(
    folder: Path, tmp_path: Path, to: str, more: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError) as stop:
        export_release(folder / "report", to, tmp_path / "out", **more)
    assert words in str(stop.value) and not (tmp_path / "out").exists()


def test_records_that_are_not_those_of_the_report_are_not_exported(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "report", tmp_path / "report")
    (tmp_path / "report" / "samples" / "lists.jsonl").write_text("")
    with pytest.raises(CoterieError, match=r"was not exported; lists: .* holds 0 records"):
        export_release(tmp_path / "report", "eee", tmp_path / "out")
