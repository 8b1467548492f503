"""D8: a model that shines in the evaluation's form alone is found; one that does not care passes."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from coterie.benchmarks.item import BenchmarkItem
from coterie.evaluate.asking import ReplyOptions
from coterie.evaluate.detectors.fingerprint import disguise_finding, disguised
from coterie.evaluate.scoring import score_benchmark
from coterie.results.evaluation import DetectorFinding
from tests.evaluate.detectors.test_twins import EACH, TEMPLATES, Guesser, Templates


class Worded(Templates):
    """`twin` marks the other wordings, for which the model is `able` only."""

    def rewordings(self, item: BenchmarkItem) -> Sequence[str]:
        return [f"{item.question} twin {number}" for number in range(8)]


def finding(known: float, able: float, seed: int = 0, system: str | None = None) -> DetectorFinding | None:
    subject, benchmark, options = Guesser(known, able, seed), Worded(), ReplyOptions(system=system)
    records = score_benchmark(subject, benchmark, options).records  # type: ignore[arg-type]
    return disguise_finding(subject, benchmark, options, records, 50)  # type: ignore[arg-type]


def test_a_model_that_needs_the_form_has_a_small_p_value() -> None:
    found = finding(0.95, 0.3)
    assert found is not None and found.p is not None and found.statistic is not None
    assert found.p < 1e-4 and 0.4 < found.statistic < 0.9
    assert f"{TEMPLATES * EACH} items in {TEMPLATES} clusters" in found.says and "system" not in found.says
    told = finding(0.95, 0.3, system="This is an evaluation.")
    assert told is not None and "without the system message" in told.says


def test_a_model_that_does_not_care_passes() -> None:
    ps = [found.p for seed in range(12) if (found := finding(0.6, 0.6, seed)) is not None]
    assert sum(p < 0.01 for p in ps if p is not None) <= 2 and len(ps) == 12


@pytest.mark.parametrize(("system", "forms"), [(None, 0), ("Be good.", 1)])
def test_without_other_words_only_a_system_message_can_go(system: str | None, forms: int) -> None:
    item = Templates().items()[0]
    assert len(disguised(Templates(), item, ReplyOptions(system=system))) == forms
    assert len(disguised(Worded(), item, ReplyOptions(system=system))) == 4
