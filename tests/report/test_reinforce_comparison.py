"""Several runs in one page: pairs on the same problems, equal operations, runs that do not compare."""

from __future__ import annotations

from dataclasses import replace

from coterie.report.reinforce_comparison import comparison_lines, render_comparison
from tests.report.reinforced import run

NONE = [False] * 30


def test_ends_are_compared_in_pairs_on_the_same_problems() -> None:
    lines = comparison_lines({"moe": run(after=[True] * 28 + [False] * 2), "dense": run(after=NONE)})
    assert lines[0] == (
        "moe is better (moe against dense): 93.3 % against 0 % of the same 30 held-out problems at the end; "
        "right in one alone 28 against 0, exact McNemar p = 7.5e-09."
    )
    same = comparison_lines({"moe": run(), "dense": run()})
    assert same[0].startswith("No difference between moe and dense is shown: 80 % against 80 %")


def test_budgets_are_those_of_the_run_that_took_least() -> None:
    lines = comparison_lines({"dear": run(cost=200.0), "cheap": run()})
    # Each step takes 4 times the cost; evaluations come after steps 2 and 4, at 37.5 and 75 %.
    assert lines[1] == (
        "Within the same 1.6 k operations, sampling included, no run is ahead beyond the intervals: "
        "dear 41.7 % (19.3 to 68.0 %) after 1.6 k, cheap 75 % (46.8 to 91.1 %) after 1.6 k."
    )


def test_runs_that_do_not_compare_say_so() -> None:
    one, other = run(), run(ended=False)
    assert "Not ended yet: b." in comparison_lines({"a": one, "b": other})
    elsewhere = replace(one, start=one.start.model_copy(update={"task": "other"}))
    assert comparison_lines({"a": one, "b": elsewhere})[0] == (
        "The runs were asked different tasks, so their shares do not compare: "
        "other (version 3), toy (version 3)."
    )
    assert one.record is not None
    apart = replace(one, record=one.record.model_copy(update={"answered": {"x": (True, True)}}))
    assert "a and b were not asked the same held-out problems." in comparison_lines({"a": one, "b": apart})


def test_of_many_runs_each_is_compared_with_the_first() -> None:
    lines = comparison_lines({name: run() for name in "abcdefg"})
    assert sum(line.startswith("No difference between a and ") for line in lines) == 6
    assert not any("between b and" in line for line in lines)


def test_the_page_has_all_runs() -> None:
    page = render_comparison({"moe <1>": run(), "dense": run(ended=False)})
    assert "moe &lt;1&gt;" in page and "<1>" not in page and page.count("<svg") == 3
    assert "not ended" in page and "+20 −1, p = 2.1e-05" in page
