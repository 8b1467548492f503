"""The safety section with text known by heart and with what tuning changed, through the evaluation."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coterie.config import ConfigError, CoterieError, DataError
from coterie.config.evaluate import EvalConfig
from coterie.evaluate.remote_subject import RemoteSubject
from coterie.infer.model import save
from coterie.recipes.evaluate import Evaluated, run_evaluation
from coterie.serve.inprocess import endpoint
from tests.agents.models import PLAIN, chat_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny"
    save(chat_model(PLAIN), path)
    return path


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folders of texts of some 160 tokens."""
    root, random = tmp_path_factory.mktemp("texts"), np.random.default_rng(0)
    words = "quick brown fox jumps over the lazy dog".split()
    for folder in ("seen", "unseen"):
        (root / folder).mkdir()
        for number in range(3):
            (root / folder / f"{number}.txt").write_text(" ".join(random.choice(words, 150)))
    return root


def evaluated(
    model: Path, out: Path, tasks: tuple[str, ...] = ("safety-refusals",), **more: Any
) -> Evaluated:
    settings = {"model": str(model), "tasks": tasks, "out": str(out), "limit": 8, "max_tokens": 4, "band": 0}
    return run_evaluation(EvalConfig.from_dict(settings | more))


def test_the_section_holds_both(model: Path, texts: Path, tmp_path: Path) -> None:
    first = evaluated(model, tmp_path / "base", name="base")
    assert first.report.safety is not None and not first.report.safety.changes
    save(chat_model(PLAIN, seed=8), tmp_path / "tuned")
    done = evaluated(
        tmp_path / "tuned", tmp_path / "out", before=str(tmp_path / "base"),
        memorised=str(texts / "seen"), memorised_control=str(texts / "unseen"),
    )  # fmt: skip
    facts = done.report.safety
    assert facts is not None and facts.memorised is not None and facts.base == "base"
    assert facts.memorised.trained.problems == 3 and facts.memorised.control is not None
    assert facts.memorised.longest < facts.memorised.run  # it was never trained on them
    assert {change.group for change in facts.changes} == {"harmful", "harmless"}
    for side, records in (("before", first.records), ("after", done.records)):
        shares = [getattr(change.change, side) for change in facts.changes]
        right = sum(record.right for record in records["safety-refusals"])
        assert sum(share.value * share.problems for share in shares) == pytest.approx(right)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Against base" in page and "word for word" in page
    assert str(texts) not in (tmp_path / "out" / "report.json").read_text()


def test_other_items_are_not_compared(model: Path, tmp_path: Path) -> None:
    evaluated(model, tmp_path / "base")
    with pytest.raises(DataError, match="not given the same items"):
        evaluated(model, tmp_path / "out", before=str(tmp_path / "base"), limit=6)
    assert not (tmp_path / "out").exists()  # said before anything is scored


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"memorised": "nowhere"}, "nowhere"),
        ({"memorised_control": "nowhere"}, "memorised=FILE"),
        ({"before": "nowhere"}, "give the directory that coterie eval wrote"),
    ],
)
def test_what_cannot_be_read_is_said_before_anything_is_scored(
    model: Path, tmp_path: Path, settings: dict[str, str], says: str
) -> None:
    with pytest.raises(CoterieError, match=says):
        evaluated(model, tmp_path, **settings)
    assert not (tmp_path / "samples").exists()


def test_a_report_without_safety_tasks_and_a_server(model: Path, texts: Path, tmp_path: Path) -> None:
    evaluated(model, tmp_path / "base", ("arithmetic",))
    with pytest.raises(ConfigError, match="share no safety task"):
        evaluated(model, tmp_path / "out", before=str(tmp_path / "base"))
    config = {"model": "http://x", "tasks": ("safety-refusals",), "memorised": str(texts / "seen")}
    with contextlib.closing(endpoint(chat_model(PLAIN), "tiny")) as client:
        subject = RemoteSubject(client)
        with pytest.raises(ConfigError, match="is a server"):
            run_evaluation(EvalConfig.from_dict(config), subject)
