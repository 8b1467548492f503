"""Which of several models to choose, in sentences. Every comparison of models ends here.

A sentence never claims more than intervals and corrected tests show.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations

from coterie.results.intervals import TIMING_NOISE


@dataclass(frozen=True)
class QualityFinding:
    """Something that models were compared on, and what was shown: pairs of a better and a worse model.

    `measure`: what it is called in a sentence, such as "your examples".
    """

    measure: str
    pairs: tuple[tuple[str, str], ...] = ()


def best_of_all(models: Sequence[str], shown: Sequence[QualityFinding]) -> str | None:
    """The model that is shown to be better than every other on something, and worse than none on anything."""
    beaten = {pair for one in shown for pair in one.pairs}
    for name in models:
        others = [other for other in models if other != name]
        if all((name, other) in beaten and (other, name) not in beaten for other in others):
            return name
    return None


def quality_words(models: Sequence[str], shown: Sequence[QualityFinding], when: str = "For quality") -> str:
    """Which model to take, on what this rests, or that nothing shows it. `when`: how the sentence begins."""
    best = best_of_all(models, shown)
    if best is not None:
        return f"{when} take {best}: it is better than {_than(best, models, shown)}."
    beaten = {pair for one in shown for pair in one.pairs}
    if not beaten:
        return f"No model is shown to be better than another on {listing(_names(shown), 'or')}."
    said = "; ".join(
        f"{a} is better than {b} on {_measures(a, b, shown)}"
        for a in models
        for b in models
        if (a, b) in beaten
    )
    open_pairs = [f"{a} and {b}" for a, b in combinations(models, 2) if not {(a, b), (b, a)} & beaten]
    rest = f" Between {listing(open_pairs, 'or between')} no difference is shown." if open_pairs else ""
    return f"No model is shown to be the best for quality: {said}.{rest}"


def quality_reasons(models: Sequence[str], shown: Sequence[QualityFinding]) -> dict[str, list[str]]:
    """What each model is better in: "quality" for the best of all, else on what and against which one."""
    best = best_of_all(models, shown)
    found: dict[str, list[str]] = {name: [] for name in models}
    if best is not None:
        found[best].append("quality")
        return found
    for better, worse in permutations(models, 2):
        measures = _measures(better, worse, shown)
        if measures:
            against = f" against {worse}" if len(models) > 2 else ""
            found[better].append(f"quality on {measures}{against}")
    return found


def _than(best: str, models: Sequence[str], shown: Sequence[QualityFinding]) -> str:
    others = [other for other in models if other != best]
    return listing([f"{other} on {_measures(best, other, shown)}" for other in others])


def _measures(better: str, worse: str, shown: Sequence[QualityFinding]) -> str:
    return listing([one.measure for one in shown if (better, worse) in one.pairs])


def _names(shown: Sequence[QualityFinding]) -> list[str]:
    return [one.measure for one in shown]


def leading(values: Mapping[str, float], larger_is_better: bool) -> list[str]:
    """The models whose timing or size is within `TIMING_NOISE` of the best one's, best first."""
    order = sorted(values, key=lambda name: values[name], reverse=larger_is_better)
    best = values[order[0]] if order else 0.0
    return [
        name
        for name in order
        if abs((values[name] / best if larger_is_better else best / values[name]) - 1) <= TIMING_NOISE
    ]


def choice(reasons: Mapping[str, Sequence[str]]) -> str:
    """Which model to choose, and for what. `reasons`: for each model, what it is better in."""
    given = {name: listing(list(found)) for name, found in reasons.items() if found}
    if not given:
        return "These figures give no reason to prefer one of them."
    if len(given) == 1:
        (name, better), *_ = given.items()
        others = [other for other in reasons if other != name]
        return f"Choose {name}: it is better in {better}, and {listing(others)} in nothing that was measured."
    return " ".join(f"Choose {name} for {better}." for name, better in given.items())


def listing(items: Sequence[str], word: str = "and") -> str:
    """`a`, `a and b`, `a, b and c`."""
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} {word} {items[-1]}"
