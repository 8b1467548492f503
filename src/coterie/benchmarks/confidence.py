"""What a model knows about what it knows: stated confidence, and questions that have no answer."""

from __future__ import annotations

import re
from collections.abc import Sequence

from coterie.benchmarks.arithmetic import Arithmetic
from coterie.benchmarks.generated import AnswerBenchmark, Cell, Draft
from coterie.benchmarks.item import BenchmarkItem, ItemReply, ItemVerdict
from coterie.primer.base import Rng
from coterie.primer.words import BOYS, COLOURS, GIRLS, PLACES, THINGS, TREASURES

_STATED = re.compile(r"^Confidence:[ \t]*(\d{1,3})[ \t]*%?[ \t]*$", re.MULTILINE)
_BINS = 10
UNKNOWN = "unknown"


def calibration(right: Sequence[bool], confidence: Sequence[float]) -> dict[str, float]:
    """Brier score, and the expected calibration error over ten equal bins of confidence.

    Brier (1950): mean of (confidence - right)^2. The error is the mean over bins of |accuracy - mean
    confidence|, weighted by the replies in the bin. `overconfidence`: mean confidence minus accuracy.
    """
    if not right:
        return {}
    n = len(right)
    brier = sum((p - y) ** 2 for p, y in zip(confidence, right, strict=True)) / n
    bins: dict[int, list[int]] = {}
    for place, p in enumerate(confidence):
        bins.setdefault(min(_BINS - 1, int(p * _BINS)), []).append(place)
    gaps = (abs(sum(right[i] - confidence[i] for i in places)) for places in bins.values())
    return {
        "brier": brier,
        "ece": sum(gaps) / n,
        "overconfidence": (sum(confidence) - sum(right)) / n,
        "stated": float(n),
    }


class Calibration(Arithmetic):
    """Arithmetic with a confidence in percent. The score is whether the answer is right.

    `extras` says how well confidence and accuracy agree, over the replies that state one.
    """

    name = "calibration"
    says = "arithmetic with a stated confidence: accuracy, Brier score and calibration error"
    form = (
        'End with two lines. The first begins with "Confidence:" and holds how sure you are, from 0 to 100. '
        'The second begins with "Answer:" and holds the answer alone.'
    )

    def judge(self, item: BenchmarkItem, reply: ItemReply) -> ItemVerdict:
        """The answer, and the confidence; a reply without one counts as unparsed."""
        verdict = super().judge(item, reply)
        found = _STATED.findall(reply.text[-20_000:])
        stated = int(found[0]) / 100 if len(found) == 1 and int(found[0]) <= 100 else None
        return ItemVerdict(
            score=verdict.score,
            extracted=verdict.extracted,
            lenient=verdict.lenient,
            unparsed=verdict.unparsed or stated is None,
            confidence=stated,
            why=verdict.why or ("" if stated is not None else "the reply states no confidence"),
        )

    def extras(self, items: Sequence[BenchmarkItem], verdicts: Sequence[ItemVerdict]) -> dict[str, float]:
        """Brier score, calibration error, overconfidence, and how many replies state a confidence."""
        stated = [(one.right, one.confidence) for one in verdicts if one.confidence is not None]
        return calibration([right for right, _ in stated], [p for _, p in stated])

    def oracle(self, item: BenchmarkItem) -> ItemReply | None:
        """The answer with full confidence."""
        return ItemReply(text=f"Confidence: 100\nAnswer: {item.answer}")

    def rewordings(self, item: BenchmarkItem) -> Sequence[str]:
        """Other frames."""
        question = item.question.removesuffix(f"\n\n{self.form}")
        frames = (
            "{form}\n\n{q}", "Question: {q}\n\n{form}", "Q: {q}\n{form}", "{q} {form}",
            "### Question\n{q}\n\n### Form\n{form}", "<question>\n{q}\n</question>\n{form}",
            "Please solve this problem. {form}\n\n{q}", "{q}\n\n{form} Thank you.",
        )  # fmt: skip
        return [frame.format(q=question, form=self.form) for frame in frames]


class Abstention(AnswerBenchmark):
    """Questions about a short text, half of which it does not answer; then `unknown` is right.

    `extras`: how often an answer is given where there is none (`invented`), and none where there is one
    (`held_back`). Always to abstain earns half.
    """

    name = "abstention"
    says = "questions about a short text that does not answer half of them"
    guessable = 0.55
    form = (
        f'If the text does not say it, the answer is "{UNKNOWN}". End with one line that begins with '
        '"Answer:" and holds the answer alone.'
    )

    def cells(self) -> Sequence[Cell]:
        """Kinds of questions, with and without an answer, by the length of the text."""
        return [
            Cell(f"{kind} {size}", group, size)
            for size in (2, 4, 8)
            for kind in ("has", "where", "count")
            for group in ("answered", "unanswered")
        ]

    def draw(self, rng: Rng, cell: Cell) -> Draft:
        """Sentences about people, and a question about one of them or about nobody there."""
        names = rng.sample(GIRLS + BOYS, cell.size + 1)
        kind, here = cell.template.split()[0], cell.group == "answered"
        asked_name = names[rng.between(0, cell.size - 1)] if here else names[-1]
        said: dict[str, tuple[str, str]] = {}
        for name in names[:-1]:
            if kind == "has":
                thing = rng.pick(TREASURES)
                said[name] = (f"{name} has a {rng.pick(COLOURS)} {thing}.", thing)
            elif kind == "where":
                place = rng.pick(PLACES)
                said[name] = (f"{name} is at the {place}.", place)
            else:
                count, things = str(rng.between(2, 60)), rng.pick(THINGS)[1]
                said[name] = (f"{name} bought {count} {things}.", count)
        asks = {
            "has": "Which thing does {} have?",
            "where": "At which place is {}?",
            "count": "How many things did {} buy?",
        }[kind].format(asked_name)
        passage = " ".join(line for line, _ in said.values())
        answer = said[asked_name][1] if here else UNKNOWN
        return Draft(f"{passage}\n{asks}", answer, passage=passage)

    def equal(self, item: BenchmarkItem, found: str) -> bool:
        """The same word, in any case."""
        return found.strip().removesuffix(".").casefold() == item.answer.casefold()

    def extras(self, items: Sequence[BenchmarkItem], verdicts: Sequence[ItemVerdict]) -> dict[str, float]:
        """Shares of invented answers and of answers that were held back."""
        pairs = list(zip(items, verdicts, strict=True))
        without = [v for item, v in pairs if item.answer == UNKNOWN]
        answered = [v for item, v in pairs if item.answer != UNKNOWN]
        held = [v for v in answered if (v.extracted or "").casefold() == UNKNOWN]
        found: dict[str, float] = {}
        if without:
            found["invented"] = sum(not v.right and v.extracted is not None for v in without) / len(without)
        if answered:
            found["held_back"] = len(held) / len(answered)
        return found
