"""Answers in one line `Answer: ...`: the form, other wordings of it, and answers found anywhere."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from coterie.benchmarks.item import BenchmarkItem, ItemVerdict
from coterie.tasks.answers import MARK, final_answer

FORM = 'End with one line that begins with "Answer:" and holds the answer alone.'
PICK = "Reply with one of these choices and nothing else."
_FORMS = {
    FORM: (
        'Your last line must be "Answer:" and then only the answer.',
        'Finish with a line of the form "Answer: ..." that holds nothing but the answer.',
    ),
    PICK: ("Reply with one choice alone.", "Write the right choice and nothing more."),
}
_FRAMES: tuple[str, ...] = (
    "{form}\n\n{question}",
    "Question: {question}\n\n{form}",
    "Q: {question}\n{form}",
    "{question} {form}",
    "### Question\n{question}\n\n### Form\n{form}",
    "<question>\n{question}\n</question>\n{form}",
    "Please solve this problem. {form}\n\n{question}",
    "{question}\n\n{form} Thank you.",
)
_NUMBER = re.compile(r"(?<![\w.])-?\d[\d,]*(?:\.\d+)?")
_SAYS = re.compile(r"answer(?:\s+is)?\s*[:=]?\s*", re.IGNORECASE)
_LONGEST = 20_000  # characters of a reply in which an answer is looked for
_WRAPPED = "*_`$\"' \t"


def asked(question: str, form: str) -> str:
    """The last message: the question, then how to answer."""
    return f"{question}\n\n{form}"


def reworded(message: str, form: str) -> list[str]:
    """Other wordings of a message of `asked` that mean the same; none for a message of another form."""
    question = message.removesuffix(f"\n\n{form}")
    if question == message:
        return []
    forms = _FORMS.get(form, ())
    framed = [frame.format(question=question, form=form) for frame in _FRAMES]
    return framed + [asked(question, other) for other in forms]


def strict_and_lenient(
    item: BenchmarkItem, text: str, equal: Callable[[str], bool], why: str = ""
) -> ItemVerdict:
    """The verdict by the one line `Answer: ...`, and by the answer wherever it stands.

    `equal`: whether a found answer is right.
    """
    found = final_answer(text)
    right = found is not None and equal(found)
    missing = f"the reply does not end in one line '{MARK} ...'"
    return ItemVerdict(
        score=float(right),
        extracted=found,
        lenient=float(right or any(map(equal, anywhere(text)))),
        unparsed=found is None,
        why="" if right else missing if found is None else why,
    )


def anywhere(text: str) -> Iterator[str]:
    """What may be meant as the answer: behind the last "answer", the last line, the last number."""
    tail = text[-_LONGEST:].rstrip()
    *_, behind = _SAYS.split(tail)
    lines = [line for line in tail.splitlines() if line.strip()]
    for piece in (behind.split("\n", 1)[0], lines[-1] if lines else ""):
        plain = piece.strip(_WRAPPED).removesuffix(".").strip(_WRAPPED)
        if plain:
            yield plain
    numbers = last_numbers(tail)
    if numbers:
        yield numbers[-1]


def last_numbers(text: str) -> Sequence[str]:
    """The numbers of a text, without commas between thousands."""
    return [found.group().replace(",", "") for found in _NUMBER.finditer(text)]
