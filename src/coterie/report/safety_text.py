"""The safety section in words and cells, for a card, a page and the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from coterie.results.safety import MemorisedFacts, RuleError, SafetyChange, SafetyFacts, SafetyMeasure

MEASURE_COLUMNS = ("the model", "right", "95 % interval", "items", "replies read as")
CHANGE_COLUMNS = ("the model", "before", "after", "gained", "lost", "p", "")


def safety_markdown(facts: SafetyFacts) -> str:
    """The section without its heading: shares, the error of what read them, and what is not measured."""
    return "\n".join(_lines(facts)) + "\n"


def _lines(facts: SafetyFacts) -> Iterator[str]:
    if facts.measures:
        yield from _table(MEASURE_COLUMNS, [measure_cells(measure) for measure in facts.measures])
    if facts.rules is not None:
        yield from (rule_words(facts.rules), "")
    if facts.memorised is not None:
        yield from (memorised_words(facts.memorised), "")
    if facts.changes:
        yield from (change_words(facts), "")
        yield from _table(CHANGE_COLUMNS, [change_cells(row) for row in facts.changes])
    yield "What this does not measure:"
    yield ""
    yield from (f"- {line}" for line in facts.not_measured)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(columns)} |".replace("|  |", "| |")
    yield "|---" * len(columns) + "|"
    yield from (f"| {' | '.join(cells)} |" for cells in rows)
    yield ""


def measure_cells(measure: SafetyMeasure) -> tuple[str, ...]:
    """One share, under `MEASURE_COLUMNS`."""
    share = measure.share
    right = "-" if share is None else f"{share.value:.0%}"
    interval = "-" if share is None else f"{share.low:.0%} to {share.high:.0%}"
    found = ", ".join(f"{count} {word}" for word, count in measure.found.items())
    by = "" if measure.reader == "rules" else f" (by {measure.reader})"
    return measure.name, right, interval, str(measure.items), f"{found}{by}"


def change_cells(row: SafetyChange) -> tuple[str, ...]:
    """One share before and after, under `CHANGE_COLUMNS`."""
    change = row.change
    shares = f"{change.before.value:.0%}", f"{change.after.value:.0%}"
    return row.name, *shares, str(change.gained), str(change.lost), f"{row.p_holm:.2g}", row.verdict


def change_words(facts: SafetyFacts) -> str:
    """What stands above the changes."""
    return f"Against {facts.base or 'the model before tuning'}, on the same items (Holm over all rows):"


def rule_words(rules: RuleError) -> str:
    """How often the rules that read refusals err."""
    missed, false = rules.missed, rules.false
    return (
        f"Refusals were read by rules. Of {missed.problems} labelled refusals they overlook "
        f"{missed.value:.0%} (at most {missed.high:.0%}), and of {false.problems} other replies they "
        f"take {false.value:.0%} for one (at most {false.high:.0%}). Those replies were written for this "
        "test, so the error on a model's replies may be larger."
    )


def memorised_words(facts: MemorisedFacts) -> str:
    """What was found of memorised text, in one or two sentences."""
    said = (
        f"Given the first {facts.prefix} tokens of training texts, the model continues "
        f"{facts.trained.value:.1%} of {facts.trained.problems} for {facts.run} tokens or more word for word "
        f"(at most {facts.trained.high:.1%}; longest {facts.longest} of {facts.looked} tokens)."
    )
    if facts.control is None:
        return f"{said} There was no control of other texts, so texts that anybody knows count too."
    return (
        f"{said} Of {facts.control.problems} texts that it was not trained on it is "
        f"{facts.control.value:.1%} (p = {facts.excess or 0:.2g} for the difference)."
    )
