"""The verdict on two recipes, in words."""

from __future__ import annotations

import pytest

from coterie.report.compare_page import render_recipes
from coterie.results.compare import RecipeComparison, RecipeRun, RecipeSide
from coterie.results.intervals import Interval


def comparison(low: float, high: float, seeds: int = 3, documents: int = 40) -> RecipeComparison:
    middle = (low + high) / 2

    def side(name: str, bits: float, seconds: float) -> RecipeSide:
        runs = [
            RecipeRun(seed=s, bits=bits, tokens=1000, seconds=seconds, flops=1e9, model=f"out/{name}-{s}")
            for s in range(seeds)
        ]
        return RecipeSide(name=name, path=f"{name}.yaml", parameters=5, active_parameters=4, runs=runs)

    return RecipeComparison(
        first=side("old", 2.0, 10),
        second=side("new <b>", 2.0 + middle, 13),
        budget="10m",
        difference=Interval(value=middle, low=low, high=high, documents=documents),
        per_seed=[middle] * seeds,
        mde80=0.05,
        from_seeds=0.4 if seeds > 1 else None,
        machine="a machine",
        versions={"torch": "2"},
    )


@pytest.mark.parametrize(
    ("found", "verdict", "says"),
    [
        (comparison(-0.3, -0.1), "adopt", "Adopt new <b>."),
        (comparison(0.1, 0.3), "keep", "Keep old."),
        (comparison(-0.1, 0.3), "cannot tell", "0.0500 would have been found"),
        (comparison(-0.3, -0.1, seeds=1), "cannot tell", "There is one seed"),
        (comparison(-0.3, -0.1, documents=7), "cannot tell", "too few for a verdict"),
    ],
)
def test_verdicts(found: RecipeComparison, verdict: str, says: str) -> None:
    assert found.verdict == verdict
    assert says in " ".join(found.lines())
    assert "took 13 s on this machine, and of old 10 s" in found.lines()[-1]


def test_a_training_that_took_longer_than_its_budget_is_named() -> None:
    found = comparison(-0.3, -0.1)
    short = found.model_copy(update={"budget": "11s"})
    assert "The longest training took 13 s of the 11 s" in short.lines()[-1]
    for budget in ("12s", "5Mtok", "1e9flops"):
        assert "The longest training" not in " ".join(found.model_copy(update={"budget": budget}).lines())


def test_the_page_stands_alone_and_escapes_names() -> None:
    page = render_recipes(comparison(-0.3, -0.1))
    assert "Adopt new &lt;b&gt;." in page and "new <b>" not in page
    assert "src=" not in page and "http" not in page.replace("http://www.w3.org", "")
    assert page.count("<svg") == 1 and "−" not in page.split("<svg")[0]
