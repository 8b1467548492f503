"""What a comparison of two training recipes measured, and its verdict."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from coterie.config import Settings
from coterie.config.budget import TrainingBudget
from coterie.results.intervals import MIN_DOCUMENTS, Interval, lower

_OVER = 1.1  # times a budget of time, beyond which a training is named
RecipeVerdict = Literal["adopt", "keep", "cannot tell"]


class RecipeRun(Settings):
    """One training: what it used, and what it reached. `bits`: per byte of the held-out documents."""

    seed: int
    bits: float
    tokens: int
    seconds: float
    flops: float
    model: str


class RecipeSide(Settings):
    """One recipe with its trainings, a seed each. `path`: its YAML file."""

    name: str
    path: str
    parameters: int
    active_parameters: int
    runs: list[RecipeRun]

    @property
    def bits(self) -> float:
        """The mean over seeds."""
        return sum(run.bits for run in self.runs) / len(self.runs)

    @property
    def seconds(self) -> float:
        """Of one training, the mean over seeds."""
        return sum(run.seconds for run in self.runs) / len(self.runs)


class RecipeComparison(Settings):
    """Two recipes at an equal budget.

    `difference`: bits per byte, second minus first, paired by document and seed. Its interval is over seeds
    and documents. `from_seeds`: share of its variance that the seeds make; None for one seed. `mde80`: the
    smallest difference that would be found with probability 0.8.
    """

    first: RecipeSide
    second: RecipeSide
    budget: str
    difference: Interval
    per_seed: list[float]
    mde80: float
    from_seeds: float | None
    machine: str
    versions: dict[str, str]

    @property
    def verdict(self) -> RecipeVerdict:
        """Whether to adopt the second. One seed decides nothing."""
        better = lower(self.difference) if len(self.per_seed) > 1 else None
        if better is None:
            return "cannot tell"
        return "adopt" if better == "first" else "keep"

    def lines(self) -> list[str]:
        """The findings as sentences, the verdict first."""
        return [*self._lines()]

    def _lines(self) -> Iterator[str]:
        moved, a, b = self.difference, self.first, self.second
        figures = (
            f"held-out bits per byte {a.bits:.4f} ({a.name}) and {b.bits:.4f} ({b.name}); {b.name} minus "
            f"{a.name} {moved.value:+.4f}, 95 % interval {moved.low:+.4f} to {moved.high:+.4f}"
        )
        said = {"adopt": f"Adopt {b.name}.", "keep": f"Keep {a.name}.", "cannot tell": "Cannot tell."}
        yield f"{said[self.verdict]} At {self.budget} for each training: {figures}."
        if len(self.per_seed) == 1:
            yield (
                "There is one seed, so the interval covers the choice of documents only, and the next seed "
                "may say otherwise; give --seeds 3 or more."
            )
        else:
            better = sum(one < 0 for one in self.per_seed)
            yield (
                f"{b.name} is better with {better} of {len(self.per_seed)} seeds. The seeds make "
                f"{self.from_seeds or 0:.0%} of the variance, the documents the rest."
            )
        if (moved.documents or 0) < MIN_DOCUMENTS:
            yield f"There are {moved.documents} held-out documents, which are too few for a verdict."
        elif self.verdict == "cannot tell":
            yield f"{self.mde80:.4f} would have been found with probability 0.8; less may be there."
        quick, slow = sorted((a, b), key=lambda side: side.seconds)
        if slow.seconds > 1.1 * quick.seconds:
            yield (
                f"Each training of {slow.name} took {slow.seconds:.3g} s on this machine, and of "
                f"{quick.name} {quick.seconds:.3g} s."
            )
        allowed, longest = TrainingBudget.read(self.budget), max(run.seconds for run in (*a.runs, *b.runs))
        if allowed.kind == "seconds" and longest > _OVER * allowed.amount:
            yield (
                f"The longest training took {longest:.3g} s of the {allowed.amount:.3g} s: the machine "
                "became slower after its speed was measured, so budgets of time were not quite equal."
            )
