"""What the same tuning gains: the same steps for both, gains on other examples, going on after a stop."""

from __future__ import annotations

from pathlib import Path

import pytest

import coterie
from coterie.config import ConfigError, DataError
from coterie.config.errors import StoppedError
from coterie.data.examples import read_all
from coterie.data.formats import Example
from coterie.evaluate.local_subject import LocalSubject
from coterie.recipes import compare_tuned as recipe
from coterie.recipes.compare_sides import LocalSide
from coterie.recipes.compare_tuned import compare_tuned
from coterie.recipes.tune import TuneResult
from coterie.report.compare_models_page import tuning_table
from tests.recipes.tuned import base, conversations


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compared")
    conversations(folder / "mine.jsonl", copies=3)
    lines = (folder / "mine.jsonl").read_text().splitlines()
    (folder / "tune.jsonl").write_text("\n".join(line.replace("?", "!") for line in lines[:12]) + "\n")
    (folder / "mine.jsonl").write_text("\n".join(lines[:10]) + "\n")
    return folder


def sides(folder: Path) -> list[LocalSide]:
    paths = [str(base(folder, family)) for family in ("qwen3", "qwen3_moe")]
    return [LocalSide(path, LocalSubject(coterie.load(path), path)) for path in paths]


def examples(folder: Path, *models: LocalSide) -> list[Example]:
    found = read_all([str(folder / "mine.jsonl")]).examples
    for side in models:
        side.read(found)
    return found


def test_both_gain_by_the_same_steps_and_a_stopped_comparison_goes_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = sides(folder)
    asked, source = examples(folder, *models), [str(folder / "tune.jsonl")]
    run, done = recipe.run_tune, list[str]()

    def stopped_at_the_second(config: recipe.TuneConfig) -> TuneResult:
        if done and len(done) < 2:
            done.append("stopped")
            return TuneResult(None, "adapter", "interrupted", 1, 1, 0.0)
        done.append(config.model)
        return run(config)

    monkeypatch.setattr(recipe, "run_tune", stopped_at_the_second)
    with pytest.raises(StoppedError, match="run the same command again"):
        compare_tuned(models, source, asked, folder / "out", steps=4)
    found = compare_tuned(models, source, asked, folder / "out", steps=4)
    assert done == [models[0].name, "stopped", models[1].name], "the first is not tuned again"
    dense, moe = found.models
    assert (found.examples, found.batch, found.steps, found.measured) == (12, 1, 4, 10)
    routers = models[1].model.model.routers()
    assert moe.experts == sum(router.config.num_experts for _, router in routers)
    assert dense.tokens > 0 and dense.experts is None
    assert moe.experts_trained is not None and 0 < moe.experts_trained <= moe.experts
    for one in (dense, moe):
        assert one.gain.difference.value != 0 and one.gain.p_holm is not None and one.bytes > 1000
        written = sum(file.stat().st_size for file in Path(one.path).rglob("*") if file.is_file())
        assert one.bytes == written
    after = dense.gain.second, moe.gain.second
    assert (found.pairs[0].after.first, found.pairs[0].after.second) == pytest.approx(after)
    said = " ".join(found.lines())
    assert f"{moe.experts_trained} of {moe.experts} experts trained" in said
    assert len(tuning_table(found).rows) == 2
    with pytest.raises(ConfigError, match="holds tunings of other models, data or steps"):
        compare_tuned(models, source, asked, folder / "out", steps=5)


def test_the_examples_that_are_tuned_on_measure_nothing(folder: Path) -> None:
    mine = [str(folder / "mine.jsonl")]
    with pytest.raises(DataError, match="--tune holds the examples of --data"):
        compare_tuned([], mine, examples(folder), folder / "none")
    assert not (folder / "none").exists()
