"""Numbers as text, and the verdict: sentences computed from the figures.

A sentence never claims more than the intervals allow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from coterie.results.intervals import MIN_DOCUMENTS, TIMING_NOISE, Interval, lower
from coterie.results.quickstart import QuickstartResults, ReasoningResults, ReleaseResults
from coterie.results.verdict import choice, leading, listing

SURE = 1e-3  # of an exact test; a smaller p is a gain by more than chance


def count(value: float) -> str:
    """`4.19 M`: three digits with a decimal prefix."""
    for size, unit in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * size:
            return f"{_three_digits(value / size)} {unit}"
    return _three_digits(value)


def size(num_bytes: float) -> str:
    """`3.2 MB`, decimal units."""
    return count(num_bytes) + ("B" if abs(num_bytes) >= 999.5 else " B")


def duration(seconds: float) -> str:
    """`48 s`, `3 min 20 s`, `2 h 5 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole % 60 else f"{whole // 60} min"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def signed(value: float) -> str:
    """`−0.0213`, `+0.0040`, with a real minus sign."""
    return f"{value:+.4f}".replace("-", "−")


def interval(part: Interval) -> str:
    """`−0.021 to −0.013`."""
    return f"{signed(part.low)} to {signed(part.high)}"


def winner(difference: Interval) -> str | None:
    """`moe`, `dense`, or None if the interval includes zero or rests on too few documents."""
    who = lower(difference)
    return None if who is None else {"first": "moe", "second": "dense"}[who]


def reasoned(found: ReasoningResults) -> str:
    """What the rewards did, as far as an exact test allows: one sentence or two."""
    if found.refused is not None:
        return f"The rewards taught nothing: {found.refused}."
    assert found.change is not None and found.mean_tokens is not None
    change, before, after = found.change, found.change.before, found.change.after
    figures = (
        f"{_percent(before.value)} of {before.problems} held-out problems before, {_percent(after.value)} "
        f"after ({_percent(after.low)} to {_percent(after.high)}; exact McNemar p {_power(change.p)})"
    )
    if change.p >= SURE or change.gained <= change.lost:
        said = "No gain by the rewards is shown"
        return f"{said}: {figures}. The cold start was short; --minutes gives it more time."
    longer = found.mean_tokens[1] > found.mean_tokens[0]
    how = f"; its replies grew from {found.mean_tokens[0]:.0f} to {found.mean_tokens[1]:.0f} tokens"
    return f"Rewards alone made it better at the task: {figures}{how if longer else ''}."


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _power(p: float) -> str:
    return f"{p:.2g}" if p > 1e-4 else f"below 10^{math.ceil(math.log10(max(p, 1e-300)))}"


def verdict(results: QuickstartResults) -> list[str]:
    """Sentences on quality, kinds of text, equal training time, cost, and which model to choose."""
    said = [_quality(results), *_slices(results), *_equal_time(results), _cost(results), _choice(results)]
    return said if results.start is None else [*said, _worth(results)]


def _worth(results: QuickstartResults) -> str:
    """Whether a mixture made from the given model learns the text better than the model itself."""
    question = f"Is a mixture worth it for {results.start} and this text?"
    who = winner(results.difference)
    if who == "moe":
        return (
            f"{question} Yes in quality: it learnt more from the same tokens and arithmetic; see its costs."
        )
    if who == "dense":
        return f"{question} No: the dense model learnt more from the same tokens and arithmetic."
    return f"{question} Not shown: after this much training no difference in quality exceeds the interval."


def fairness(results: QuickstartResults) -> str:
    """What was equal in the comparison: active parameters, and the search for learning rates."""
    moe, dense = results.moe, results.dense
    ratio = moe.active_parameters / dense.active_parameters
    active = (
        "equal active parameters"
        if abs(ratio - 1) < 0.01
        else f"{ratio:.2f} times the active parameters in the MoE"
    )
    rates = [sorted(point.lr for point in model.lr_sweep) for model in (moe, dense)]
    if not rates[0] and not rates[1]:
        return f"with {active} and fixed learning rates"
    search = "the same" if rates[0] == rates[1] else "a different"
    return f"with {active} and {search} search for the learning rate"


def equal_time_winner(results: QuickstartResults) -> str | None:
    """Which model is better after equal training time; None if that was not measured or the gap is too small.

    The curves have no interval, so a gap counts only if it is wider than half the interval of the difference
    at equal tokens.
    """
    if results.equal_time is None:
        return None
    gap = results.equal_time.moe - results.equal_time.dense
    if abs(gap) <= (results.difference.high - results.difference.low) / 2:
        return None
    return "moe" if gap < 0 else "dense"


def faster(moe: float, dense: float, larger_is_better: bool) -> str | None:
    """Which model wins a timing or a size; None within `TIMING_NOISE` of each other."""
    ahead = leading({"moe": moe, "dense": dense}, larger_is_better)
    return ahead[0] if len(ahead) == 1 else None


def _quality(results: QuickstartResults) -> str:
    moe, dense, difference = (
        results.moe.bits_per_byte.value,
        results.dense.bits_per_byte.value,
        results.difference,
    )
    tokens = (
        f"after the same {count(results.moe.tokens)} tokens"
        if results.moe.tokens == results.dense.tokens
        else f"after {count(results.moe.tokens)} (MoE) and {count(results.dense.tokens)} (dense) tokens"
    )
    figures = (
        f"{moe:.3f} against {dense:.3f} bits per byte on held-out text {tokens}; "
        f"MoE minus dense is {signed(difference.value)}, 95 % interval {interval(difference)}"
    )
    who = winner(difference)
    if who is None:
        few = difference.documents is not None and difference.documents < MIN_DOCUMENTS
        why = (
            f"{difference.documents} held-out document(s) are too few to tell"
            if few
            else "the interval includes zero"
        )
        return f"No difference in quality is shown: {figures}, and {why}."
    better, percent = (
        ("mixture of experts", dense / moe - 1) if who == "moe" else ("dense model", moe / dense - 1)
    )
    return (
        f"The {better} predicts held-out text better, by {100 * percent:.1f} %: {figures}. "
        "The interval covers the choice of documents, not the seed: each model was trained once."
    )


def _slices(results: QuickstartResults) -> list[str]:
    parts = results.difference.per_slice
    if len(parts) < 2:
        return []
    groups = {who: [n for n, part in parts.items() if winner(part) == who] for who in ("moe", "dense", None)}
    sentences = []
    for who, text in (("moe", "the MoE is better on"), ("dense", "the dense model is better on")):
        if groups[who]:
            sentences.append(f"{text} {listing(groups[who])}")
    if groups[None]:
        sentences.append(f"no difference is shown on {listing(groups[None])}")
    return [f"By kind of text, with one interval for each kind: {'; '.join(sentences)}."]


def _equal_time(results: QuickstartResults) -> list[str]:
    same = results.equal_time
    if same is None:
        return []
    who = equal_time_winner(results)
    figures = f"{same.moe:.3f} (MoE) against {same.dense:.3f} (dense) bits per byte"
    start = f"After {duration(same.seconds)} of training each on this machine,"
    if who is None:
        return [f"{start} no difference is shown: {figures}, a gap smaller than the measurement can resolve."]
    return [f"{start} the {'MoE' if who == 'moe' else 'dense model'} is better: {figures}."]


def _cost(results: QuickstartResults) -> str:
    moe, dense = results.moe, results.dense
    items = (
        ("trains {}", _times(dense.step_ms, moe.step_ms)),
        ("generates text {}", _times(moe.decode_tokens_per_second, dense.decode_tokens_per_second)),
    )
    clauses = [text.format(times) for text, times in items]
    clauses.append(f"has {moe.total_parameters / dense.total_parameters:.1f} times the parameters")
    clauses.append(f"needs {moe.peak_memory_bytes / dense.peak_memory_bytes:.2f} times the peak memory")
    return f"Compared with the dense model, the MoE {listing(clauses)}."


def _times(ratio: float, against: float) -> str:
    """Relative speed in words; `ratio / against` above 1 is faster."""
    value = ratio / against
    if abs(value - 1) <= TIMING_NOISE:
        return "at about the same speed"
    return f"at {value:.2f} times the speed"


def _choice(results: QuickstartResults) -> str:
    moe, dense = results.moe, results.dense
    reasons: dict[str, list[str]] = {"moe": [], "dense": []}
    for who, reason in (
        (winner(results.difference), "quality at equal text and compute"),
        (equal_time_winner(results), "quality at equal training time"),
        (faster(moe.decode_tokens_per_second, dense.decode_tokens_per_second, True), "generation speed"),
        (faster(moe.peak_memory_bytes, dense.peak_memory_bytes, False), "memory"),
        (faster(moe.checkpoint_bytes, dense.checkpoint_bytes, False), "size on disk"),
    ):
        if who:
            reasons[who].append(reason)
    return choice({"the MoE": reasons["moe"], "the dense model": reasons["dense"]})


def _three_digits(value: float) -> str:
    if value == int(value) and abs(value) < 1000:
        return f"{int(value)}"
    return f"{value:.3g}" if abs(value) < 999.5 else f"{value:.0f}"


def released(found: ReleaseResults) -> str:
    """What came of the release: one sentence or two."""
    if found.refused:
        return f"The release was refused: {'; '.join(found.refused)}."
    if found.reasons:
        return f"The model was released, and the check refuses it: {'; '.join(found.reasons)}."
    changed = (
        f"With one expert changed, the check refuses it: {_telling(found.refusals)}."
        if found.refusals
        else "With one expert changed, the check still lets it pass, which is a fault of the check."
    )
    return f"The model was released with its evidence, and the check finds nothing against it. {changed}"


def _telling(refusals: Sequence[str]) -> str:
    """The reason that names the expert, else the first."""
    return next((one for one in refusals if "expert" in one), refusals[0])
