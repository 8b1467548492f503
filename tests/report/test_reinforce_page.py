"""The page of a reinforcement run: its figures, hostile replies, a run that has not ended."""

from __future__ import annotations

import re

import pytest

from coterie.report.reinforce_page import render_reinforce
from coterie.results.accuracy import PassAt, PassAtChange
from coterie.results.intervals import Interval
from tests.report.reinforced import HOSTILE, run


def pass_at() -> PassAtChange:
    """pass@1 rises, pass@2 does not."""
    curves = [
        [Interval(value=value, low=value, high=value, documents=2) for value in pair]
        for pair in ((0.25, 0.5), (0.5, 0.5))
    ]
    first, last = (
        PassAt(problems=["a", "b"], samples=2, right=right, curve=curve)
        for right, curve in zip(([1, 0], [2, 0]), curves, strict=True)
    )
    change = [
        Interval(value=0.25, low=0.1, high=0.4, documents=2),
        Interval(value=0, low=0, high=0, documents=2),
    ]
    return PassAtChange(before=first, after=last, change=change)


@pytest.fixture(scope="module")
def page() -> str:
    """The page of a whole run of a mixture."""
    return render_reinforce(run(pass_at=pass_at(), experts={1: ([3, 1], [1, 3])}, warnings=["reward fell"]))


def test_the_page_says_what_was_found(page: str) -> None:
    for part in (
        "toy-run: learning toy from rewards",
        "A mixture of experts of 5 k parameters, 2 k of them active",
        "Held-out accuracy rose: 16.7 % before, 80 % after (95 % interval 62.7 to 90.5 %) of 30 problems; "
        "20 gained, 1 lost, exact McNemar p = 2.1e-05.",
        "Sharper: the first try is right more often; that 2 tries solve more is not shown",
        "Replies became longer: 5 tokens before, 9 after.",
        "Warned of: reward fell.",
        "16 replies of 4 steps were kept",
        "All of them are in this page",
        "lost: right before, wrong after",
        "Layer 1: share of choices",
        "policy.clip",
    ):
        assert part in re.sub(r"\s+", " ", page), part


def test_the_page_stands_alone(page: str) -> None:
    assert not re.search(r"""(src|href)\s*=\s*["'](?!#)""", page)
    assert "@import" not in page and "url(" not in page.replace("url(#", "")


def test_hostile_replies_stay_text(page: str) -> None:
    assert (
        "<script>alert" not in page
        and "onerror=alert(2)>" not in page
        and "<b>" not in page.split("Say 1 ")[1][:9]
    )
    assert page.count("<script") == page.count("</script>") == 2
    assert _escaped(HOSTILE) in page


def _escaped(text: str) -> str:
    from markupsafe import escape

    return str(escape(text))


def test_figures_have_what_was_recorded(page: str) -> None:
    names = set(re.findall(r'id="([a-z-]+?)-figure_1"', page))
    assert {
        "accuracy-steps",
        "accuracy-tokens",
        "accuracy-flops",
        "pass-at",
        "trend-reward",
        "levels",
        "parts",
    } <= names
    assert "trend-routing-flips" not in names and "trend-kl" not in names


def test_a_run_that_has_not_ended_is_drawn_so_far() -> None:
    unended = re.sub(r"\s+", " ", render_reinforce(run(ended=False)))
    assert "The run has not ended: 4 of 4 steps are on this page." in unended
    assert "0 % before (0.0 to 24.2 %), 75 % after 4 steps" in unended
    assert "So far: 1.6 k operations, 75% of them for sampling." in unended
    assert "The same problems before and after" not in unended and "Verdict" not in unended
