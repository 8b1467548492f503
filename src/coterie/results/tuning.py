"""What a tuning run did, gained and lost: the schema of its `report.json`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import Field

from coterie.config import Settings
from coterie.results.intervals import Few, Interval, Score


@dataclass(frozen=True)
class GroupPlan:
    """What a run will do to a group of parameters.

    `rank`: of low-rank factors. `bits`: per number of the group's frozen weights. `tokens`: per expert and
    step.
    """

    group: str
    parameters: int
    trainable: int
    treatment: str
    rank: int | None = None
    bits: float | None = None
    tokens: float | None = None


@dataclass(frozen=True)
class GroupReach:
    """What the first backward pass reached of a group: `reached` of `layers` tensors got a gradient.

    `experts_reached` of `experts` likewise, counting each expert; None for a group without experts.
    """

    group: str
    layers: int
    reached: int
    experts: int | None = None
    experts_reached: int | None = None


class TuningChange(Settings):
    """Bits before and after tuning. `change`: after minus before, paired by text (below 0: better).

    Few texts have no interval.
    """

    before: float
    after: float
    change: Score | Few

    @property
    def verdict(self) -> str:
        """Whether the model became better, as far as the interval shows."""
        return verdict(self.change)


def verdict(moved: Interval | Few) -> str:
    """better, worse, no clear change; or that there are too few texts to tell."""
    if isinstance(moved, Few):
        return "too few to tell"
    return "better" if moved.high < 0 else "worse" if moved.low > 0 else "no clear change"


class TuningProof(Settings):
    """The written result, read back, against the tuned model and its base (`proof.judge`).

    `gravity`: 1 if it is the tuned model, 0 if it is the base. Mean and largest differences of
    log-probabilities in nats: `moved_mean` from base to tuned model, `reloaded_mean` and `reloaded_max` from
    tuned model to result.
    """

    gravity: float
    moved_mean: float
    reloaded_mean: float
    reloaded_max: float


class TuningSample(Settings):
    """One held-out prompt: the answer in the data, and the model's before and after (greedy, cut off)."""

    prompt: str
    wanted: str
    before: str
    after: str


class TuningRecord(Settings):
    """The content of `report.json`.

    `data`: summary of the examples. `skipped`: problems of examples left out. `coverage`: of the groups that
    were trained. `ended`: why the run ended. `held_out`: bits per token of examples; `held_out_text` and
    `retention`: bits per byte of text like the data, and of text that must not be forgotten. `preferred`:
    share of held-out preferences ranked rightly. `samples`: answers to held-out prompts. `counts`: of
    examples, tokens and rows. `seconds`: spent in steps, of resumed runs in all; `peak_memory_bytes`: of this
    process. `versions`: of the packages that decide a result. `failed`: why there is no result; `path`: of
    the result.
    """

    config: dict[str, Any]
    data: str
    skipped: list[str]
    plan: list[GroupPlan]
    coverage: list[GroupReach]
    ended: str
    warnings: list[str]
    held_out: TuningChange | None = None
    held_out_text: TuningChange | None = None
    preferred: float | None = None
    retention: TuningChange | None = None
    samples: list[TuningSample] = Field(default_factory=list)
    counts: dict[str, int] = Field(default_factory=dict)
    seconds: float | None = None
    peak_memory_bytes: int | None = None
    versions: dict[str, str] = Field(default_factory=dict)
    proof: TuningProof | None = None
    failed: str | None = None
    path: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, without the fields that were never set."""
        return self.model_dump(mode="json", exclude_unset=True)
