"""What a reinforcement run found, as sentences computed from its figures."""

from __future__ import annotations

from collections.abc import Iterator

from coterie.report.words import count
from coterie.results.accuracy import Accuracy, AccuracyChange, PassAtChange
from coterie.results.reinforce import ReinforceRecord

SURE, LIKELY = 0.001, 0.05  # a change this improbable by chance is called one; the seed may still decide it
_SAME = 0.1  # lengths of replies that differ by less are called equal


def percent(value: float) -> str:
    """`45.5 %`."""
    return f"{100 * value:.1f} %".replace(".0 %", " %")


def range_words(found: Accuracy) -> str:
    """`38.7 to 52.4 %`."""
    return f"{100 * found.low:.1f} to {100 * found.high:.1f} %"


def p_words(p: float) -> str:
    """`p = 0.012`; what is too small to tell apart is bounded."""
    return f"p = {p:.2g}" if p >= 1e-12 else "p < 1e-12"


def direction(change: AccuracyChange) -> str:
    """rose, fell, probably rose, probably fell, or none: as far as the paired test shows."""
    way = "rose" if change.gained > change.lost else "fell"
    return way if change.p < SURE else f"probably {way}" if change.p < LIKELY else "none"


def change_words(change: AccuracyChange) -> str:
    """The figures of a change: both shares, gained and lost problems, the test."""
    return (
        f"{percent(change.before.value)} before, {percent(change.after.value)} after (95 % interval "
        f"{range_words(change.after)}) of {change.after.problems} problems; {change.gained} gained, "
        f"{change.lost} lost, exact McNemar {p_words(change.p)}"
    )


def findings(record: ReinforceRecord) -> list[str]:
    """The verdict on a finished run, sentence by sentence."""
    return [
        _accuracy("Held-out accuracy", record.change),
        *([] if record.beyond is None else [_accuracy("One level above training, accuracy", record.beyond)]),
        *([] if record.pass_at is None else [pass_at_words(record.pass_at)]),
        _lengths(*record.mean_tokens),
        *_cautions(record),
        "The intervals cover the choice of problems, not the seed: this is one run.",
    ]


def _accuracy(what: str, change: AccuracyChange) -> str:
    moved = direction(change)
    if moved == "none":
        return f"{what}: no change is shown. {change_words(change)[0].upper()}{change_words(change)[1:]}."
    return f"{what} {moved}: {change_words(change)}."


def pass_at_words(found: PassAtChange) -> str:
    """Whether the run taught something new or made likelier what the model could do already."""
    tries, problems = found.before.samples, len(found.before.problems)
    first, last = found.change[0], found.change[-1]
    ends = (
        f"pass@1 {percent(found.before.curve[0].value)} to {percent(found.after.curve[0].value)}, "
        f"pass@{tries} {percent(found.before.curve[-1].value)} to {percent(found.after.curve[-1].value)} "
        f"of {problems} problems"
    )
    wide = f"the change of pass@{tries} is {_span(last.low, last.high)}"
    said = {
        "new": f"Something new: it solves problems that {tries} tries did not solve before",
        "narrower": f"It lost breadth: {tries} tries solve fewer problems than before",
        "sharper": f"Sharper: the first try is right more often; that {tries} tries solve more is not shown",
        "worse": f"The first try is right less often; that {tries} tries solve fewer is not shown",
        "none": f"Neither the first try nor {tries} tries show a change",
    }[found.finding]
    ceiling = (
        f"; {tries} tries solved every problem before, so more could not be shown"
        if last.value == 0 and all(found.before.right)
        else ""
    )
    return f"{said} ({ends}; {wide}, that of pass@1 {_span(first.low, first.high)}{ceiling})."


def _span(low: float, high: float) -> str:
    return f"{100 * low:+.1f} to {100 * high:+.1f} points".replace("-", "−")


def _lengths(before: float, after: float) -> str:
    if abs(after - before) <= _SAME * max(before, 1.0):
        return f"Replies stayed as long as they were: {before:.0f} tokens before, {after:.0f} after."
    way = "longer" if after > before else "shorter"
    return f"Replies became {way}: {before:.0f} tokens before, {after:.0f} after."


def _cautions(record: ReinforceRecord) -> Iterator[str]:
    warning = record.readiness.warning()
    if warning is not None:
        yield f"Warned of before the start: {warning}."
    yield from (f"Warned of: {line}." for line in record.warnings)
    if record.proof is not None:
        yield (
            f"The written result, read again, has gravity {record.proof.gravity:.3f} (1: the trained model; "
            f"0: its start); largest difference {record.proof.reloaded_max:.1e} nats."
        )


def compute_words(sampling: float, training: float) -> str:
    """`3.1 T operations, 62 % of them for sampling`."""
    total = sampling + training
    return f"{count(total)} operations, {sampling / max(total, 1):.0%} of them for sampling"
