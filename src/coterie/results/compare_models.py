"""What a comparison of models on a user's examples measured, and its verdict."""

from __future__ import annotations

from collections.abc import Iterator

from coterie.config import Settings
from coterie.results.accuracy import Accuracy, AccuracyChange
from coterie.results.intervals import MIN_DOCUMENTS, TIMING_NOISE, Interval, lower


class ComparedModel(Settings):
    """One model. `bits`: per byte of the answers in the user's examples.

    Speeds are in tokens per second: of reading a prompt, of one reply, of `clients` replies at once together.
    `weight_bytes`: of the weights in memory. `dollars`: per million tokens of replies to all clients.
    """

    name: str
    family: str
    parameters: int
    active_parameters: int
    bits: float
    scores: dict[str, Accuracy]
    prefill: float
    one: float
    many: float
    clients: int
    weight_bytes: int
    kernels: str
    dollars: float | None = None


class ModelPair(Settings):
    """A model against the first one, on the same examples and items.

    `bits`: this model's bits per byte minus the first's, paired by example. `mde80`: the smallest difference
    that would be found with probability 0.8. `tasks`: right replies of the first, then of this model.
    `p_holm`: corrected over all tasks of all pairs.
    """

    name: str
    bits: Interval
    mde80: float
    tasks: dict[str, AccuracyChange]
    p_holm: dict[str, float]

    def words(self, first: str) -> str:
        """What the intervals and tests show, in one sentence."""
        parts = []
        who = lower(self.bits)
        shown = f"{self.bits.value:+.4f} bits per byte, {self.bits.low:+.4f} to {self.bits.high:+.4f}"
        if who is None:
            few = (self.bits.documents or 0) < MIN_DOCUMENTS
            why = "too few examples for a verdict" if few else f"less than {self.mde80:.4f} may be there"
            parts.append(f"no difference on your examples is shown ({shown}; {why})")
        else:
            parts.append(f"{'better' if who == 'first' else 'worse'} on your examples ({shown})")
        for task, change in self.tasks.items():
            found = "no difference shown"
            if self.p_holm[task] < 0.05:
                found = "better" if change.gained > change.lost else "worse"
            figures = f"{change.after.value:.1%} against {change.before.value:.1%}"
            parts.append(f"{task}: {found} ({figures}, p = {self.p_holm[task]:.2g})")
        return f"{self.name} against {first}: {'; '.join(parts)}."


class ModelComparison(Settings):
    """Several models on the same examples and machine; `pairs` are against the first.

    `left_out`: examples that at least one of the models cannot read, and why for the first of them.
    """

    models: list[ComparedModel]
    pairs: list[ModelPair]
    examples: int
    left_out: int
    left_out_why: str = ""
    price_per_hour: float | None = None
    machine: str
    versions: dict[str, str]

    def lines(self) -> list[str]:
        """The findings as sentences: the verdict, then each pair."""
        return [*self._lines()]

    def _lines(self) -> Iterator[str]:
        first = self.models[0]
        yield self._verdict()
        for pair in self.pairs:
            yield pair.words(first.name)
        if self.left_out:
            yield f"{self.left_out} examples were left out for all models: {self.left_out_why}"

    def _verdict(self) -> str:
        """Which model to take: for quality as far as intervals show it, for speed and for memory."""
        first = self.models[0].name
        better = [pair.name for pair in self.pairs if lower(pair.bits) == "first"]
        worse = [pair.name for pair in self.pairs if lower(pair.bits) == "second"]
        if better:
            lowest = min((m for m in self.models if m.name in better), key=lambda m: m.bits)
            said = f"For quality on your examples take {lowest.name}: it is better than {first}."
        elif len(worse) == len(self.pairs):
            said = f"For quality on your examples take {first}: it is better than the others."
        else:
            said = "Your examples show no model to be better than the first."
        fast, *rest = sorted(self.models, key=lambda m: m.many, reverse=True)
        small = min(self.models, key=lambda m: m.weight_bytes)
        pace = f"{fast.many:.0f} tokens per second for {fast.clients} clients together"
        quick = f"The fastest here is {fast.name} ({pace})"
        if rest[0].many > (1 - TIMING_NOISE) * fast.many:
            quick = f"{fast.name} and {rest[0].name} are about equally fast here ({pace})"
        return (
            f"{said} {quick}. The smallest is {small.name} ({small.weight_bytes / 1e6:,.1f} MB of weights)."
        )
