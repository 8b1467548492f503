"""D6: a headline is compared with other wordings of the same items."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from coterie.benchmarks.item import BenchmarkItem, ItemReply
from coterie.evaluate.asking import ReplyOptions
from coterie.evaluate.detectors.prompt_band import band_finding, prompt_band
from coterie.evaluate.scoring import score_benchmark
from tests.evaluate.items import Letters
from tests.evaluate.test_scoring import subject

OPTIONS = ReplyOptions(max_tokens=8, effort="none")


class Worded(Letters):
    """Items with eight other wordings, each marked."""

    def rewordings(self, item: BenchmarkItem) -> Sequence[str]:
        return [f"W{number} {item.question}" for number in range(8)]


@pytest.mark.parametrize(("lucky", "flag", "percentile"), [(True, True, 1.0), (False, False, 0.0)])
def test_a_chosen_wording_is_flagged(
    monkeypatch: pytest.MonkeyPatch, lucky: bool, flag: bool, percentile: float
) -> None:
    """Only the usual wording, or only the others, are answered rightly."""
    asked = subject()

    def replies(items: Sequence[BenchmarkItem], *rest: object) -> list[ItemReply]:
        return [ItemReply(text="x" if item.question.startswith("W") is lucky else "e") for item in items]

    monkeypatch.setattr(asked, "replies", replies)
    benchmark = Worded()
    records = score_benchmark(asked, benchmark, OPTIONS).records
    band = prompt_band(asked, benchmark, OPTIONS, records, wordings=8, items=5)
    assert band is not None and (band.count, band.items) == (8, 5)
    assert band.percentile == percentile and band_finding(band).flag is flag
    assert prompt_band(asked, Letters(), OPTIONS, records, 8, 5) is None


def test_equal_scores_stand_in_the_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = subject()
    monkeypatch.setattr(asked, "replies", lambda items, *rest: [ItemReply(text="e") for _ in items])
    records = score_benchmark(asked, Worded(), OPTIONS).records
    band = prompt_band(asked, Worded(), OPTIONS, records, wordings=4, items=12)
    assert band is not None and band.percentile == 0.5 and not band_finding(band).flag
