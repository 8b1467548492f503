"""What the same tuning gained each of several models, on a user's examples."""

from __future__ import annotations

from collections.abc import Iterator

from coterie.config import Settings
from coterie.results.paired import PairedDifference
from coterie.results.verdict import QualityFinding, quality_words


class TunedModel(Settings):
    """One model, tuned. `gain`: bits per byte of the answers in the user's examples, before and after.

    `tokens`: that all steps read. `trainable`: numbers that were trained. `experts_trained` of
    `experts` over all layers; None for a dense model. `forgot`: bits per byte that other text lost, None
    where this was not measured. `seconds`: spent in steps. `path`: of the result, `bytes` large on disk.
    """

    name: str
    gain: PairedDifference
    steps: int
    tokens: int
    seconds: float
    learning_rate: float
    trainable: int
    experts: int | None = None
    experts_trained: int | None = None
    forgot: float | None = None
    path: str
    bytes: int

    def words(self) -> str:
        """What it gained, for which effort, in one sentence."""
        found = {"second": "gained", "first": "lost", None: "no gain is shown"}[self.gain.better]
        why = "" if self.gain.better else f"; {self.gain.why_not}"
        experts = f"{self.experts_trained} of {self.experts} experts trained, " if self.experts else ""
        forgot = "" if self.forgot is None else f"; other text {self.forgot:+.4f} bits per byte"
        return (
            f"{self.name}, tuned: {found}, {self.gain.words()}{why}. {experts}{self.trainable:,} numbers, "
            f"{self.seconds:.0f} s in steps, result of {self.bytes / 1e6:.2f} MB{forgot}."
        )


class TunedPair(Settings):
    """Two tuned models on the same examples; `after`: second minus first."""

    first: str
    second: str
    after: PairedDifference


class TunedComparison(Settings):
    """The same tuning of every model that is here: the same examples in each step, and as many steps.

    `examples`: that were trained on, `batch` in each step. `shared`: the user's examples that the tuning data
    hold too, and which are left out here. `measured`: those that are left. `not_tuned`: why, by model.
    """

    examples: int
    batch: int
    steps: int
    shared: int
    measured: int
    models: list[TunedModel]
    pairs: list[TunedPair]
    not_tuned: dict[str, str]

    def shown(self) -> list[tuple[str, str]]:
        """(better, worse) among the tuned models."""
        return [
            (pair.first, pair.second) if pair.after.better == "first" else (pair.second, pair.first)
            for pair in self.pairs
            if pair.after.better is not None
        ]

    def lines(self) -> Iterator[str]:
        """The findings as sentences."""
        yield (
            f"The same tuning of each: {self.examples:,} examples, {self.batch} in each of {self.steps:,} "
            f"steps, measured on {self.measured:,} others."
        )
        for model in self.models:
            yield model.words()
        for pair in self.pairs:
            found = {"second": "better", "first": "worse", None: "no difference shown"}[pair.after.better]
            why = "" if pair.after.better else f"; {pair.after.why_not}"
            yield f"After tuning, {pair.second} against {pair.first}: {found}, {pair.after.words()}{why}."
        if self.pairs:
            names = [model.name for model in self.models]
            finding = QualityFinding("your examples", tuple(self.shown()))
            yield quality_words(names, [finding], "After this tuning")
        for name, why in self.not_tuned.items():
            yield f"{name} was not tuned: {why}"
        if self.shared:
            yield (
                f"{self.shared} of your examples are in the tuning data too, and are left out of what tuning "
                "gained."
            )
