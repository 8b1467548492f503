"""A run's folder keeps the indexes of its stage and of earlier ones, and the manifest names them."""

from __future__ import annotations

from pathlib import Path

import pytest

from coterie.checkpoints.commit import commit_directory
from coterie.config.errors import DataError
from coterie.contamination.builder import IndexBuilder
from coterie.contamination.index import ContaminationIndex, Stage
from coterie.recipes.trained_stages import searched, trained


def built(stage: Stage, text: str) -> ContaminationIndex:
    builder = IndexBuilder(stage)
    builder.add(text, 9)
    return builder.finish(9)


@pytest.fixture
def lineage(tmp_path: Path) -> Path:
    """A pretrained model in `base/model`, and one tuned from it in `tuned/model`."""
    about = trained(tmp_path / "base", "pretrain", built("pretrain", "one two"), 18)
    commit_directory(tmp_path / "base/model", lambda _: None, about)
    about = trained(tmp_path / "tuned", "tune", built("tune", "three four"), 9, tmp_path / "base/model")
    commit_directory(tmp_path / "tuned/model", lambda _: None, about)
    return tmp_path


def test_a_later_stage_carries_the_earlier_ones(lineage: Path):
    for target in ("tuned", "tuned/model"):
        found = searched(lineage / target)
        assert [(facts.stage, index is not None) for facts, index in found] == [
            ("pretrain", True),
            ("tune", True),
        ]
    assert len(list((lineage / "tuned/index").iterdir())) == 2
    again = trained(lineage / "tuned", "tune", built("tune", "three four"), 9, lineage / "base/model")
    assert [one["trained_tokens"] for one in again["training"]] == [18, 9]
    assert len(list((lineage / "tuned/index").iterdir())) == 2  # the same files


def test_a_missing_index_is_a_stage_without_one(lineage: Path):
    for path in (lineage / "tuned/index").glob("pretrain-*"):
        path.unlink()
    (first, none), (_, second) = searched(lineage / "tuned/model")
    assert (first.digest, first.coverage, none) == (None, 0.0, None)
    assert second is not None
    given = [str(lineage / "base/index")]
    assert all(index is not None for _, index in searched(lineage / "tuned/model", given))


def test_a_changed_index_is_not_that_stage(lineage: Path):
    (path,) = (lineage / "tuned/index").glob("tune-*")
    other = built("tune", "five six")
    path.unlink()
    other.write(path)
    assert [index is None for _, index in searched(lineage / "tuned/model")] == [False, True]


def test_a_base_of_unknown_training_is_a_stage_without_an_index(tmp_path: Path):
    (tmp_path / "foreign").mkdir()
    about = trained(tmp_path / "out", "tune", built("tune", "three four"), 9, tmp_path / "foreign")
    assert [(one["stage"], one["index"] is None) for one in about["training"]] == [
        ("earlier", True),
        ("tune", False),
    ]


def test_training_on_text_that_the_index_has_not_seen_is_an_error(tmp_path: Path):
    with pytest.raises(DataError, match="trained on 5 tokens, and its index has seen none"):
        trained(tmp_path, "tune", IndexBuilder("tune").finish(0), 5)


def test_targets_without_an_index(tmp_path: Path):
    with pytest.raises(DataError, match="no such index, run or model"):
        searched(tmp_path / "none")
    with pytest.raises(DataError, match="holds neither an index nor a model"):
        searched(tmp_path)
