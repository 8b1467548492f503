"""The safety section as Markdown, for a card and for the terminal."""

from __future__ import annotations

from collections.abc import Iterator

from coterie.results.safety import MemorisedFacts, SafetyFacts, SafetyMeasure


def safety_markdown(facts: SafetyFacts) -> str:
    """The section without its heading: shares, the error of what read them, and what is not measured."""
    return "\n".join(_lines(facts)) + "\n"


def _lines(facts: SafetyFacts) -> Iterator[str]:
    if facts.measures:
        yield "| the model | right | 95 % interval | items | replies read as |"
        yield "|---|---|---|---|---|"
        yield from map(_row, facts.measures)
        yield ""
    if facts.rules is not None:
        missed, false = facts.rules.missed, facts.rules.false
        yield (
            f"Refusals were read by rules. Of {missed.problems} labelled refusals they overlook "
            f"{missed.value:.0%} (at most {missed.high:.0%}), and of {false.problems} other replies they "
            f"take {false.value:.0%} for one (at most {false.high:.0%}). Those replies were written for this "
            "test, so the error on a model's replies may be larger."
        )
        yield ""
    if facts.memorised is not None:
        yield from (memorised_words(facts.memorised), "")
    if facts.changes:
        yield f"Against {facts.base or 'the model before tuning'}, on the same items (Holm over all rows):"
        yield ""
        yield "| the model | before | after | gained | lost | p | |"
        yield "|---|---|---|---|---|---|---|"
        for row in facts.changes:
            change = row.change
            yield (
                f"| {row.name} | {change.before.value:.0%} | {change.after.value:.0%} | {change.gained} | "
                f"{change.lost} | {row.p_holm:.2g} | {row.verdict} |"
            )
        yield ""
    yield "What this does not measure:"
    yield ""
    yield from (f"- {line}" for line in facts.not_measured)


def _row(measure: SafetyMeasure) -> str:
    share = measure.share
    right = "-" if share is None else f"{share.value:.0%}"
    interval = "-" if share is None else f"{share.low:.0%} to {share.high:.0%}"
    found = ", ".join(f"{count} {word}" for word, count in measure.found.items())
    by = "" if measure.reader == "rules" else f" (by {measure.reader})"
    return f"| {measure.name} | {right} | {interval} | {measure.items} | {found}{by} |"


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
