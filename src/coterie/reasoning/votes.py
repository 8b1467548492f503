"""Self-consistency: the answer that most of several sampled replies give (arXiv 2203.11171).

A named rule finds the answer of a reply. Replies without one do not vote. Ties go to the answer whose replies
have the higher mean log-probability.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, Literal, get_args

from coterie.tasks.answers import final_answer

VoteRule = Literal["auto", "answer", "boxed", "number", "text"]
VOTE_RULES: tuple[VoteRule, ...] = get_args(VoteRule)
MOST_VOTES = 64
SHOWN = 500  # characters of an answer or example in a table
_NUMBER = re.compile(r"[-+−]?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?")
_LONGEST = 40  # characters of a number that is compared as one
_EDGES = " \t\n.,;:!?*_`\"'$"


@dataclass(frozen=True)
class Ballot:
    """One reply: its text without reasoning, its mean log-probability, and whether it was cut off."""

    text: str
    mean_logprob: float
    cut: bool = False


@dataclass(frozen=True)
class VoteRow:
    """One answer. `example`: the place of its likeliest reply; `mean_logprob`: of its replies."""

    answer: str
    count: int
    share: float
    mean_logprob: float
    example: int


@dataclass(frozen=True)
class VoteTable:
    """The answers of `of` replies, best first. `unanswered`: replies without an answer.

    `winner`: the place of the reply to show: the likeliest one with the best answer, or of all where none has
    an answer.
    """

    rule: VoteRule
    of: int
    rows: tuple[VoteRow, ...]
    unanswered: int
    winner: int

    @property
    def answer(self) -> str | None:
        """The best answer; None where no reply has one."""
        return self.rows[0].answer if self.rows else None

    @property
    def majority(self) -> bool:
        """Whether more than half of all replies give the best answer."""
        return bool(self.rows) and 2 * self.rows[0].count > self.of

    @property
    def says(self) -> str:
        """The outcome in one line."""
        if not self.rows:
            return f"none of {self.of} replies has an answer"
        best = f"{self.rows[0].count} of {self.of} replies answer {self.rows[0].answer[:80]}"
        return best if self.majority else f"no majority: {best}"

    def to_dict(self, texts: Sequence[str] = ()) -> dict[str, Any]:
        """As JSON. `texts`: of the replies in order, of which each row then shows an example."""
        rows = []
        for row in self.rows:
            facts: dict[str, Any] = {"answer": row.answer[:SHOWN], "count": row.count, "share": row.share}
            facts["mean_logprob"] = max(row.mean_logprob, -9999.0)
            rows.append(facts | ({"example": texts[row.example][:SHOWN]} if texts else {}))
        return {
            "rule": self.rule,
            "of": self.of,
            "answer": None if self.answer is None else self.answer[:SHOWN],
            "majority": self.majority,
            "says": self.says,
            "table": rows,
            "unanswered": self.unanswered,
        }


def answer_of(text: str, rule: VoteRule = "auto", cut: bool = False) -> str | None:
    """The answer that a reply gives, in a form in which equal answers are equal texts; None for none.

    A reply that was `cut` off has an answer only where it marks one.
    """
    names = ("answer", "boxed", "number", "text") if rule == "auto" else (rule,)
    for name in names:
        if cut and name in ("number", "text"):
            continue
        found = _FINDERS[name](text)
        if found is not None and (normal := normalised(found)):
            return normal
    return None


def normalised(answer: str) -> str:
    """One form for answers that mean the same: numbers without separators and zeros, texts without case."""
    text = " ".join(answer.split()).strip(_EDGES)
    bare = text.replace(",", "").replace("−", "-").lstrip("$")
    if len(bare) <= _LONGEST and _NUMBER.fullmatch(text.lstrip("$")):
        try:
            value = Decimal(bare)
        except InvalidOperation:
            return text.casefold()
        whole = value == value.to_integral_value()
        return str(int(value)) if whole else f"{value.normalize():f}"
    return text.casefold()


def tally(ballots: Sequence[Ballot], rule: VoteRule = "auto") -> VoteTable:
    """Count the answers of at least one reply."""
    answers = [answer_of(ballot.text, rule, ballot.cut) for ballot in ballots]
    places: dict[str, list[int]] = {}
    for place, answer in enumerate(answers):
        if answer is not None:
            places.setdefault(answer, []).append(place)
    rows = []
    for answer, own in places.items():
        mean = math.fsum(ballots[place].mean_logprob for place in own) / len(own)
        best = max(own, key=lambda place: ballots[place].mean_logprob)
        rows.append(VoteRow(answer, len(own), len(own) / len(ballots), mean, best))
    rows.sort(key=lambda row: (-row.count, -row.mean_logprob))
    every = range(len(ballots))
    winner = rows[0].example if rows else max(every, key=lambda place: ballots[place].mean_logprob)
    return VoteTable(rule, len(ballots), tuple(rows), answers.count(None), winner)


def mean_logprob(logprobs: Sequence[float]) -> float:
    """The mean; 0 for none."""
    return math.fsum(logprobs) / len(logprobs) if logprobs else 0.0


def _boxed(text: str) -> str | None:
    r"""What the last `\boxed{...}` holds, with brackets in it."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth, first = 0, start + len("\\boxed{")
    for place in range(first, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth < 0:
            return text[first:place]
    return None


def _last_number(text: str) -> str | None:
    found = _NUMBER.findall(text)
    return found[-1] if found else None


_FINDERS: dict[str, Callable[[str], str | None]] = {
    "answer": final_answer,
    "boxed": _boxed,
    "number": _last_number,
    "text": lambda text: text,
}
