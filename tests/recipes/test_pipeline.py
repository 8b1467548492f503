"""Pipelines: references, budgets, going on, and what is refused before the first stage starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from coterie.config import ConfigError
from coterie.config.errors import StoppedError
from coterie.config.pipeline import PipelineConfig, r1_settings, references, split_reference
from coterie.recipes import pipeline_stages
from coterie.recipes.pipeline import planned, run_pipeline
from coterie.recipes.tune import TuneResult
from coterie.report.pipeline_page import render_pipeline
from coterie.results.accuracy import accuracy, accuracy_change
from coterie.results.pipeline import PipelineRecord
from tests.recipes.test_pool import TASK
from tests.recipes.tuned import base

TUNE: dict[str, Any] = {
    "kind": "tune", "method": "full", "steps": 2, "lr": 1e-3, "row_length": 64, "batch_rows": 2,
    "retention": "none", "eval": 0.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a task and a tiny model."""
    folder = tmp_path_factory.mktemp("pipeline")
    (folder / "small.py").write_text(TASK)
    base(folder, "llama", calm=True)
    return folder


def settings(place: Path, name: str, **more: Any) -> dict[str, Any]:
    """Rows, and two tuning runs one after the other."""
    stages = [
        {"name": "rows", "kind": "rows", "count": 12},
        TUNE | {"name": "first", "model": str(place / "llama"), "data": "stages.rows"},
        TUNE | {"name": "second", "model": "previous", "data": ["stages.rows#6"], "steps": 3},
    ]
    given = {"task": str(place / "small.py"), "out": str(place / name), "max_tokens": 2, "eval_problems": 8}
    return given | {"threads": 1, "stages": stages} | more


def pipeline(given: dict[str, Any]) -> PipelineConfig:
    """The settings, checked."""
    return PipelineConfig.from_dict(given, "pipeline")


def test_stages_run_in_turn_and_are_skipped_when_done(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coterie.report.tuning_page.loss_curve", lambda losses: "")
    config = pipeline(settings(place, "run"))
    tune = pipeline_stages.run_tune
    ran: list[str] = []

    def noted(config: Any, hint: str) -> TuneResult:
        ran.append(Path(config.out).name)
        if ran == ["first", "second"]:
            return TuneResult(None, "model", "interrupted", 1, 0, 0.0)
        return tune(config, hint)

    monkeypatch.setattr(pipeline_stages, "run_tune", noted)
    with pytest.raises(StoppedError, match="the same command goes on"):
        run_pipeline(config)
    done = json.loads((place / "run" / "pipeline.json").read_text())
    assert [stage["name"] for stage in done["stages"]] == ["rows", "first"]
    record = run_pipeline(config)
    assert ran == ["first", "second", "second"]  # the first is not repeated
    assert run_pipeline(config).stages == record.stages and len(ran) == 3
    rows, first, second = record.stages
    assert rows.accuracy is None and rows.path == "rows/rows.jsonl" and first.path == "first/model"
    assert first.accuracy is not None and first.accuracy.problems == 8 and first.change is None
    assert second.change is not None and second.change.before == first.accuracy
    assert len(first.right or "") == 8 and first.page == "first/report.html"
    assert first.tokens_trained > 0 and first.flops > 0 and first.parameters == first.active_parameters
    assert (place / "run" / "second" / "model").is_dir()
    page = (place / "run" / "report.html").read_text()
    assert '<a href="first/report.html">first</a>' in page and "<svg" in page
    # A finished stage with other settings is not taken for this one.
    other = settings(place, "run")
    other["stages"][1]["lr"] = 2e-3
    with pytest.raises(ConfigError, match=r"first: this stage was done with another 'optimiser'; remove"):
        run_pipeline(pipeline(other))
    (place / "run" / "rows" / "stage.json").unlink()
    changed = settings(place, "run")
    changed["stages"][0]["count"] = 13
    with pytest.raises(ConfigError, match=r"first: this stage was done from another result of rows; remove"):
        run_pipeline(pipeline(changed))


def test_references_become_paths(place: Path) -> None:
    stages = {stage.name: stage for stage in planned(pipeline(settings(place, "x")))}
    assert stages["first"].settings.data == [str(place / "x" / "rows" / "rows.jsonl")]
    assert stages["second"].settings.data == [str(place / "x" / "rows" / "rows.jsonl") + "#6"]
    assert stages["second"].settings.model == str(place / "x" / "first" / "model")
    assert stages["second"].after == ("first", "rows")
    assert list(references({"a": ["stages.x:0.3", {"b": "previous"}], "c": 1})) == ["x", "previous"]
    assert split_reference("stages.rows#5") == ("rows", "#5")
    given = settings(place, "x")
    given["stages"][2]["data"] = "stages.first/rows.jsonl"
    assert planned(pipeline(given))[2].settings.data == [str(place / "x" / "first" / "rows.jsonl")]


def test_scale_changes_budgets_only(place: Path) -> None:
    given = settings(place, "x", scale=0.5)
    given["stages"][2]["scaled"] = False
    given["stages"] += [
        {"name": "rl", "kind": "reinforce", "model": "previous", "method": "lora"},
        {"name": "rs", "kind": "reject", "model": "stages.first", "base": "stages.rl", "problems": 30},
        {"name": "more", "kind": "reject", "model": "previous", "tune": {"steps": 9}},
    ]
    rows, first, second, rl, rs, more = (stage.settings for stage in planned(pipeline(given)))
    assert (rows.count, first.steps, second.steps, rl.steps, rs.problems) == (6, 1, 3, 50, 15)
    assert more.tuning().steps == 4 and rs.tuning().epochs == 3.0
    assert rl.max_tokens == 2 and rl.eval_problems == 8 and rl.task == rs.task == str(place / "small.py")
    made = {stage.name: stage.product for stage in planned(pipeline(given))}
    assert made["rl"] == place / "x" / "rl" / "adapter"
    assert made["rs"] == place / "x" / "rs" / "tune" / "adapter"  # the adapter of its base is trained further
    assert rs.tuning().model == str(made["rl"])


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"kind": "tun"}, "stage 'last': there is no recipe 'tun'; choose rows, pool, pretrain"),
        ({"model": "stages.frist"}, "stage 'last': 'frist' is not the name of an earlier stage"),
        ({"model": "stages.last"}, "stage 'last': 'last' is not the name of an earlier stage"),
        ({"name": "first"}, "two stages are called 'first'"),
        ({"name": "a/b"}, "name"),
        ({"stepps": 3}, r"stage 'last': unknown key 'stepps' \(did you mean 'steps'"),
        ({"out": "x"}, "stage 'last': 'out' follows from the name of the stage"),
    ],
)
def test_a_wrong_stage_is_named_before_anything_runs(
    place: Path, stage: dict[str, Any], message: str
) -> None:
    given = settings(place, "never")
    last = TUNE | {"name": "last", "model": "previous", "data": "stages.rows"}
    given["stages"].append(last | stage)
    with pytest.raises(ConfigError, match=message):
        run_pipeline(pipeline(given))
    assert not (place / "never").exists()


def test_a_stage_without_a_model_before_it(place: Path) -> None:
    given = settings(place, "never")
    given["stages"] = [given["stages"][0], given["stages"][2]]
    with pytest.raises(ConfigError, match="stage 'second': no stage before it makes a model"):
        planned(pipeline(given))


def test_the_ladder_of_r1(place: Path) -> None:
    given = {"model": str(place / "llama"), "task": "parity", "out": str(place / "r1")}
    changes = {"reinforce": {"steps": 7}, "reject": {"base": "stages.reinforce"}}
    plain = {stage.name: stage.settings for stage in planned(pipeline(r1_settings(given, "f")))}
    assert plain["cold-start"].model == plain["reject"].base == str(place / "llama")
    assert plain["reject"].model.endswith("reinforce/adapter")
    assert plain["again"].model.endswith("reject/tune/adapter")
    changed = {s.name: s.settings for s in planned(pipeline(r1_settings(given | {"stages": changes}, "f")))}
    assert changed["reinforce"].steps == 7 and changed["reject"].base.endswith("reinforce/adapter")
    with pytest.raises(ConfigError, match="f: there is no stage 'rienforce'; the stages are worked"):
        r1_settings(given | {"stages": {"rienforce": {}}}, "f")
    with pytest.raises(ConfigError, match="f: 'model' is missing"):
        r1_settings({"task": "parity"}, "f")


def test_the_shipped_ladder_can_start() -> None:
    """Settings of every stage of the file are valid, scaled and not."""
    for scale in ("scale=1", "scale=0.05"):
        config = PipelineConfig.from_yaml("recipes/nano.yaml", [scale])
        assert [stage.kind for stage in planned(config)].count("reinforce") >= 1


def test_the_page_tells_the_figures() -> None:
    before, after = [True, False, False, False], [True, True, True, False]
    common = {"kind": "tune", "identity": "x", "settings": {}, "path": "a/model", "folder": "a"}
    stages = [
        {"name": "a", "accuracy": accuracy(before), "right": "1000", "seconds": 1.0, **common},
        {"name": "b", "accuracy": accuracy(after), "right": "1110", "seconds": 2.0, **common}
        | {"change": accuracy_change(before, after), "flops": 3e9, "page": "b/report.html"},
    ]
    record = PipelineRecord.from_dict(
        {"config": {}, "task": "parity", "task_version": 1, "versions": {}, "stages": stages}, "record"
    )
    page = render_pipeline(record, "Pipeline <x>")
    assert "75.0 %" in page and "2 gained, 0 lost, p = 0.5" in page and "3e+09" in page
    assert "Pipeline &lt;x&gt;" in page and 'href="b/report.html"' in page
