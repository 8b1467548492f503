"""The stages that a manifest names, and the files of their indexes."""

from __future__ import annotations

from pathlib import Path

import pytest

from coterie.config.errors import DataError
from coterie.contamination.index import ContaminationIndex
from coterie.contamination.lineage import (
    TrainedStage,
    find,
    gaps,
    joined,
    keep,
    named_stage,
    plain,
    stages_of,
)
from tests.contamination.support import index_of


def test_a_model_of_unknown_training_is_one_stage_without_an_index():
    (stage,) = stages_of({}, "m")
    assert stage.index is None
    assert stage.facts(None).digest is None


def test_stages_survive_a_manifest():
    stages = [
        TrainedStage(stage="pretrain", index="a" * 64, tokens=3, coverage=1.0),
        TrainedStage(stage="tune"),
    ]
    assert stages_of({"training": plain(stages)}, "m") == stages


@pytest.mark.parametrize("entry", [3, [], [{"stage": "tune", "colour": "red"}], [{"tokens": 3}]])
def test_an_unusable_entry_is_one_line(entry: object):
    with pytest.raises(DataError, match="m: ") as error:
        stages_of({"training": entry}, "m")
    assert "\n" not in str(error.value)


def test_gaps_are_named():
    whole = TrainedStage(stage="pretrain", index="a" * 64, tokens=9, trained_tokens=90, coverage=1.0)
    assert not gaps([whole])
    assert gaps(
        [
            *stages_of({}, "m"),
            whole.model_copy(update={"coverage": 0.5}),
            whole.model_copy(update={"tokens": 0}),
        ]
    ) == [
        "stage earlier has no index: nothing says what it was trained on",
        "the index of stage pretrain has seen 50.0% of its tokens",
        "stage pretrain trained on 90 tokens and its index has none",
    ]


def test_joined_manifests_name_every_stage_once():
    base, tune, other = ({"stage": name} for name in ("pretrain", "tune", "reinforce"))
    found = joined([{"training": [base]}, {"training": [base, tune]}, {}, {"training": [base, other]}])
    assert found == {"training": [base, tune, other]}
    assert joined([{}, {}]) == {}


def test_a_kept_index_is_found_by_its_digest(tmp_path: Path):
    path = tmp_path / "data" / "train.index"
    index_of(["one two three four five six seven eight nine"]).write(path)
    stage = named_stage("continue", ContaminationIndex.open(path), 90)
    assert (stage.stage, stage.tokens, stage.trained_tokens, stage.coverage) == ("continue", 9, 90, 1.0)
    folder = tmp_path / "run" / "index"
    kept = keep(stage, path, folder)
    assert keep(stage, path, folder) == kept
    assert find(stage, [tmp_path / "none", folder]) == kept
    assert find(stage, [path.parent]) == path
    kept.write_bytes(b"other")  # the file is a link or a copy of the same bytes
    assert find(stage, [folder]) is None
    assert find(TrainedStage(stage="tune"), [folder]) is None
