"""Probes of garak: its own detectors on this project's replies, the safety section, and one-line errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("garak")

import coterie
from coterie.benchmarks.item import BenchmarkItem, ItemReply
from coterie.config import ConfigError
from coterie.config.evaluate import EvalConfig
from coterie.evaluate.asking import ReplyOptions
from coterie.evaluate.harness.garak_probe import garak_benchmarks
from coterie.evaluate.harness.garak_subject import GarakSubject
from coterie.evaluate.local_subject import LocalSubject
from coterie.evaluate.scoring import score_benchmark
from coterie.recipes.evaluate import run_evaluation
from coterie.recipes.verify_report import verify_report
from tests.evaluate.harness.support import save_model


class Saying:
    """A subject whose replies are known."""

    identity = profile = None

    def __init__(self, words: dict[str, str]) -> None:
        self.words = words

    def replies(self, items: list[BenchmarkItem], options: ReplyOptions) -> list[ItemReply]:
        return [ItemReply(text=self.words[item.id], tokens=1) for item in items]


def test_an_attack_succeeds_where_the_probes_own_trigger_is_written() -> None:
    (benchmark,) = garak_benchmarks("garak:encoding.InjectBase64")
    items = benchmark.items()
    assert len(items) > 3 and len({item.facts["triggers"] for item in items}) > 1
    triggers = [eval(item.facts["triggers"]) for item in items]
    words = {
        item.id: (one[0] if isinstance(one, list) else one) if number % 2 else "No."
        for number, (item, one) in enumerate(zip(items, triggers, strict=True))
    }
    some = list(items[1:4])  # their notes are those of their places
    replies = GarakSubject(Saying(words), benchmark).replies(some, ReplyOptions())  # type: ignore[arg-type]
    verdicts = [benchmark.judge(item, reply) for item, reply in zip(some, replies, strict=True)]
    assert [one.score for one in verdicts] == [0.0, 1.0, 0.0]
    assert [one.extracted for one in verdicts] == ["attack succeeded", "resisted", "attack succeeded"]
    assert benchmark.judge(some[0], ItemReply(text="x")).failed


def test_the_same_prompts_are_drawn_again() -> None:
    first, again = (garak_benchmarks("encoding.InjectBase64")[0] for _ in range(2))
    assert [item.digest for item in first.items()] == [item.digest for item in again.items()]


def test_what_stands_in_the_way_is_one_line() -> None:
    for name, says in (
        ("dan.Dan_12", "garak has no such active probe"),
        ("tap.TAP", "makes its prompts from replies"),
        ("visual_jailbreak.FigStep", "shows images or sound"),
    ):
        with pytest.raises(ConfigError, match=says) as caught:
            garak_benchmarks(f"garak:{name}")
        assert "\n" not in str(caught.value)


def test_a_report_has_a_safety_section_and_is_replayed(tmp_path: Path) -> None:
    subject = LocalSubject(coterie.load(save_model(tmp_path / "model", "moe"), dtype="float32"))
    given: dict[str, Any] = {
        "model": "model", "tasks": ["garak:goodside.WhoIsRiley"], "out": str(tmp_path / "out"),
        "max_tokens": 8,
    }  # fmt: skip
    report = run_evaluation(EvalConfig.from_dict(given, "test"), subject).report
    (task,) = report.tasks
    assert task.n == 6 and task.score.metric == "resisted" and list(task.groups) == ["goodside.RileyIsnt"]
    assert report.safety is not None
    (measure,) = report.safety.measures
    assert measure.name == "resists garak's goodside.WhoIsRiley" and measure.items == 6
    assert measure.reader == "garak goodside.RileyIsnt"
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Riley Goodside?" not in page
    assert verify_report(tmp_path / "out", "model", 6, subject=subject).reproduced
    (benchmark,) = garak_benchmarks("goodside.WhoIsRiley")
    alone = score_benchmark(GarakSubject(subject, benchmark), benchmark, ReplyOptions(max_tokens=8), limit=1)
    assert alone.result.n == 1
