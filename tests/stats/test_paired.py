"""Paired tests against scipy and statsmodels, coverage by simulation, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar as their_mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import ttost_paired

from coterie.config.errors import DataError
from coterie.results.evaluation import ItemRecord
from coterie.stats.paired import (
    compare_bits,
    compare_records,
    compare_scores,
    corrected,
    holm,
    not_below,
    tost,
)


def alone(count: int) -> list[str]:
    return [str(number) for number in range(count)]


def records(scores: list[float], **changed: str) -> list[ItemRecord]:
    fields = {"digest": "sha256:1", "prompt": "sha256:2"} | changed
    return [
        ItemRecord(task="t", id=str(n), cluster=str(n), score=score, right=score == 1, **fields)
        for n, score in enumerate(scores)
    ]


@pytest.mark.parametrize("clustered", [False, True])
def test_identical_runs(clustered: bool) -> None:
    scores = [0.0, 1.0, 1.0, 0.0] * 10 if not clustered else [0.25, 0.5, 1.0, 0.0] * 10
    groups = [str(n // 4) for n in range(40)] if clustered else alone(40)
    found = compare_scores(scores, scores, groups)
    assert found.p == 1 and found.difference.value == 0 and found.gained == found.lost == 0
    assert found.difference.low <= 0 <= found.difference.high
    assert compare_records(records(scores), records(scores)).p == 1


@pytest.mark.parametrize(("gained", "lost"), [(1, 0), (12, 3), (40, 41), (7, 25)])
def test_mcnemar_as_statsmodels_has_it(gained: int, lost: int) -> None:
    first = [0.0] * gained + [1.0] * lost + [1.0] * 30 + [0.0] * 20
    second = [1.0] * gained + [0.0] * lost + [1.0] * 30 + [0.0] * 20
    found = compare_scores(first, second, alone(len(first)))
    theirs = their_mcnemar([[30, lost], [gained, 20]], exact=True)
    assert found.p == pytest.approx(theirs.pvalue) and found.test == "McNemar, exact"
    assert (found.gained, found.lost) == (gained, lost)
    assert found.difference.value == pytest.approx((gained - lost) / len(first))


def test_swapped_signs_as_scipy_permutes() -> None:
    rng = np.random.default_rng(2)
    first, second = rng.random(11), rng.random(11)
    found = compare_scores(first.tolist(), second.tolist(), alone(11))
    theirs = stats.permutation_test(
        (second, first), lambda a, b: (a - b).mean(), permutation_type="samples", n_resamples=np.inf
    )
    assert found.test == "swapped signs, exact" and found.p == pytest.approx(theirs.pvalue)
    many = compare_scores(rng.random(200).tolist(), rng.random(200).tolist(), alone(200))
    assert 0 < many.p <= 1 and "draws" in many.test


def test_the_difference_is_covered() -> None:
    """Exact pairs by Bonett and Price; clusters of pairs by the bootstrap."""
    rng = np.random.default_rng(4)
    hits = clustered = 0
    groups = [str(n // 5) for n in range(250)]
    for _ in range(400):
        kinds = rng.choice(4, 60, p=[0.5, 0.2, 0.1, 0.2])  # both, gained, lost, neither
        found = compare_scores(
            np.isin(kinds, (0, 2)).astype(float).tolist(),
            np.isin(kinds, (0, 1)).astype(float).tolist(),
            alone(60),
        )
        hits += found.difference.low <= 0.1 <= found.difference.high
        shift = np.repeat(rng.normal(0.05, 0.2, 50), 5) + rng.normal(0, 0.1, 250)
        other = compare_scores([0.5] * 250, (0.5 + shift).tolist(), groups)
        clustered += other.difference.low <= 0.05 <= other.difference.high
    slack = 3.3 * math.sqrt(0.95 * 0.05 / 400)
    assert hits / 400 > 0.95 - slack - 0.01
    assert clustered / 400 > 0.95 - slack - 0.015  # percentiles of 50 clusters are a little narrow


def test_false_alarms_are_rare() -> None:
    rng = np.random.default_rng(8)
    groups = [str(n // 5) for n in range(100)]
    alarms = 0
    for _ in range(300):
        shift = np.repeat(rng.normal(0, 0.3, 20), 5)
        alarms += compare_scores([0.5] * 100, (0.5 + shift).tolist(), groups).p < 0.05
    assert alarms / 300 < 0.05 + 3.3 * math.sqrt(0.05 * 0.95 / 300)


def test_holm_and_equivalence_as_statsmodels_has_them() -> None:
    rng = np.random.default_rng(6)
    ps = rng.random(9).tolist()
    assert holm(ps) == pytest.approx(multipletests(ps, method="holm")[1].tolist()) and holm([]) == []
    first, second = rng.random(40), rng.random(40)
    theirs = ttost_paired(first, second, -0.1, 0.1)[0]
    assert tost((first - second).tolist(), 0.1) == pytest.approx(theirs)
    assert not_below([0.0] * 9, 0.1) == 0.0 and not_below([-0.2] * 9, 0.1) == 1.0
    with pytest.raises(DataError, match="margin"):
        tost([0.1, 0.2], 0)


@pytest.mark.parametrize(
    ("change", "says"), [({"digest": "sha256:9"}, "the item"), ({"prompt": "sha256:9"}, "the prompt")]
)
def test_other_items_or_prompts_are_not_compared(change: dict[str, str], says: str) -> None:
    with pytest.raises(DataError, match=says):
        compare_records(records([1.0, 0.0]), records([1.0, 0.0], **change))
    with pytest.raises(DataError, match="one of the two"):
        compare_records(records([1.0, 0.0]), records([1.0]))


def test_bits_of_texts_of_one_size_are_a_paired_t_test() -> None:
    random = np.random.default_rng(1)
    first, second = random.normal(30, 4, 25), random.normal(29, 4, 25)
    found = compare_bits(first, second, np.full(25, 10.0))
    theirs = stats.ttest_rel(second, first)
    assert found.p == pytest.approx(theirs.pvalue)
    low, high = theirs.confidence_interval()
    assert (found.difference.low, found.difference.high) == pytest.approx((low / 10, high / 10))
    assert found.lower_is_better and found.gained == int((second < first).sum()) == 25 - found.lost
    same = compare_bits(first, first, np.full(25, 10.0))
    assert same.p == 1.0 and same.better is None and same.why_not.startswith("less than 0.0000")


def test_costs_and_corrections() -> None:
    names = [str(number) for number in range(20)]
    higher = compare_scores([1.0] * 20, [1.5] * 20, names, lower_is_better=True)
    assert (higher.gained, higher.lost, higher.better) == (0, 20, "first")
    both = corrected({"a": higher, "b": higher.model_copy(update={"p": 0.03})})
    assert both["a"].p_holm == pytest.approx(2 * higher.p) and both["b"].p_holm == pytest.approx(0.03)
