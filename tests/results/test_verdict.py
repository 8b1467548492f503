"""Sentences on which model to choose: a winner only where all that was shown allows one."""

from __future__ import annotations

import pytest

from coterie.results.verdict import (
    QualityFinding,
    best_of_all,
    choice,
    leading,
    listing,
    quality_reasons,
    quality_words,
)

EXAMPLES = QualityFinding("your examples", (("b", "a"),))


def test_a_winner_is_better_than_every_other_and_worse_than_none() -> None:
    assert best_of_all(["a", "b"], [EXAMPLES, QualityFinding("sums")]) == "b"
    assert quality_words(["a", "b"], [EXAMPLES, QualityFinding("sums")]) == (
        "For quality take b: it is better than a on your examples."
    )
    both = [EXAMPLES, QualityFinding("sums", (("b", "a"),))]
    assert quality_words(["a", "b"], both).endswith("better than a on your examples and sums.")


@pytest.mark.parametrize(
    ("models", "shown", "says"),
    [
        (
            ["a", "b"],
            [QualityFinding("your examples"), QualityFinding("sums")],
            "better than another on your examples or sums",
        ),
        # They win on different things, so neither is the best.
        (
            ["a", "b"],
            [EXAMPLES, QualityFinding("sums", (("a", "b"),))],
            "best for quality: a is better than b on sums; b is better than a on your examples.",
        ),
        # Better than the first is not better than all.
        (["a", "b", "c"], [EXAMPLES], "Between a and c or between b and c no difference is shown."),
        (
            ["a", "b", "c"],
            [QualityFinding("sums", (("b", "a"), ("c", "a")))],
            "Between b and c no difference",
        ),
    ],
)
def test_without_a_winner_it_says_what_was_shown(
    models: list[str], shown: list[QualityFinding], says: str
) -> None:
    assert best_of_all(models, shown) is None
    assert says in quality_words(models, shown)


def test_a_reason_without_a_winner_names_what_it_rests_on() -> None:
    """What a model is better in is never left out because it is not the best of all."""
    assert quality_reasons(["a", "b"], [EXAMPLES]) == {"a": [], "b": ["quality"]}
    both = [EXAMPLES, QualityFinding("sums", (("a", "b"),))]
    assert quality_reasons(["a", "b"], both) == {
        "a": ["quality on sums"],
        "b": ["quality on your examples"],
    }
    three = quality_reasons(["a", "b", "c"], [QualityFinding("sums", (("a", "c"), ("b", "c")))])
    assert three == {"a": ["quality on sums against c"], "b": ["quality on sums against c"], "c": []}


def test_timings_within_their_noise_are_alike() -> None:
    assert leading({"a": 100.0, "b": 96.0, "c": 60.0}, True) == ["a", "b"]
    assert leading({"a": 100.0, "b": 60.0}, False) == ["b"]
    assert leading({}, True) == []


def test_a_choice_has_reasons() -> None:
    assert choice({"a": [], "b": []}) == "These figures give no reason to prefer one of them."
    assert choice({"a": ["memory"], "b": ["quality", "speed"]}) == (
        "Choose a for memory. Choose b for quality and speed."
    )
    assert choice({"a": [], "b": ["speed"]}) == (
        "Choose b: it is better in speed, and a in nothing that was measured."
    )
    assert listing(["x", "y", "z"]) == "x, y and z"
