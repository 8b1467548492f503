"""What a comparison of a mixture of experts with its dense twin measured: the schema of `results.json`.

The report page, the terminal summary and the verdict use only this record and the metrics stream. Bits per
byte are of held-out documents; every interval is a 95 % interval over documents.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from coterie.config import Settings
from coterie.config.files import read_json, write_json
from coterie.results.accuracy import AccuracyChange
from coterie.results.intervals import Interval, Score
from coterie.results.reinforce import ReplySample
from coterie.results.routing import RoutingShares


class SweepPoint(Settings):
    """Held-out bits per byte reached by a short run with learning rate `lr`."""

    lr: float = Field(gt=0)
    bits_per_byte: float


class CurvePoint(Settings):
    """Held-out bits per byte after `tokens` training tokens, `seconds` of training and `flops` operations."""

    tokens: int
    seconds: float
    flops: float
    bits_per_byte: float


class ModelResults(Settings):
    """One trained model.

    `active_parameters` counts neither embedding nor head. `step_ms`: the median step. `curve`: over the
    training. `decode_kernels`: what generation ran on. `probes`: share of exact answers by test.
    """

    path: str
    total_parameters: int
    active_parameters: int
    tokens: int
    bits_per_byte: Score
    lr: float
    lr_sweep: list[SweepPoint]
    step_ms: float
    tokens_per_second: float
    prefill_tokens_per_second: float
    decode_tokens_per_second: float
    decode_kernels: str = ""
    peak_memory_bytes: int
    train_seconds: float
    flops: float
    checkpoint_bytes: int
    curve: list[CurvePoint] = Field(min_length=1)
    probes: dict[str, float] = Field(default_factory=dict)


class EqualTime(Settings):
    """Held-out bits per byte of both when each has trained for the same `seconds` (read off the curves)."""

    seconds: float
    moe: float
    dense: float


class Sample(Settings):
    """The same prompt continued by both models."""

    slice: str
    prompt: str
    moe: str
    dense: str


class DataSummary(Settings):
    """The training data, and the size of the held-out part."""

    name: str
    documents: int
    bytes: int
    tokens: int
    vocab_size: int
    held_out_documents: int
    held_out_bytes: int
    dropped: dict[str, int] = Field(default_factory=dict)


class Change(Settings):
    """Bits before and after, and after minus before, paired by document (below 0: the model got better)."""

    before: float
    after: float
    change: Interval


class Trained(Settings):
    """A group of parameters that was tuned, by which method, and how many numbers were trained."""

    group: str
    how: str
    trainable: int


class AnswerPair(Settings):
    """A question answered before and after tuning."""

    question: str
    before: str
    after: str


class TunedResults(Settings):
    """The mixture of experts, tuned on conversations and merged.

    `held_out`: bits per token; `retention`: bits per byte. `experts`: how many of the experts with factors
    got a gradient in the first step. `gravity` of the merged model: 1 if it answers like the tuned model, 0
    if like its base.
    """

    path: str
    trained: list[Trained]
    experts: str
    held_out: Change
    retention: Change
    gravity: float
    answers: list[AnswerPair]
    seconds: float


class ReasoningResults(Settings):
    """The mixture of experts after a cold start on one task, and after rewards.

    `change`: held-out accuracy before and after the rewards. `mean_tokens`: of the held-out replies, before
    and after. `curve`: share of right replies among those sampled at each step. `refused`: why the rewards
    could not begin or go on; the model is then that of the cold start.
    """

    path: str
    task: str
    says: str
    cold_start_tokens: int
    steps: int = 0
    change: AccuracyChange | None = None
    mean_tokens: tuple[float, float] | None = None
    curve: list[float] = Field(default_factory=list)
    samples: list[ReplySample] = Field(default_factory=list)
    refused: str | None = None
    seconds: float


class ReleasedScore(Settings):
    """The score of one task in the report of a release, with its 95 % interval. `flags`: raised about it."""

    task: str
    metric: str
    items: int
    value: float
    low: float
    high: float
    flags: list[str] = Field(default_factory=list)


class ReleaseResults(Settings):
    """The last model of the run, released with its evidence, and what a receiver's check says.

    `digests`: of what was scored, by name. `waived`: flags that were let pass. `refused`: why there is no
    release. `reasons`: what the check has against the release, `notes`: what it says besides. `changed`: the
    tensor that was changed in a copy, and `refusals`: what the check has against that copy.
    """

    model: str
    path: str
    scores: list[ReleasedScore] = Field(default_factory=list)
    verdict: str = ""
    digests: dict[str, str] = Field(default_factory=dict)
    waived: list[str] = Field(default_factory=list)
    refused: list[str] = Field(default_factory=list)
    reasons: list[str] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)
    changed: str = ""
    refusals: list[str] = Field(default_factory=list)
    seconds: float = 0.0


class QuickstartResults(Settings):
    """The content of `results.json`. `difference`: MoE minus dense by document (below 0: MoE better).

    `start`: the dense model that both were made from, None for fresh twins.
    """

    seed: int
    minutes: float
    start: str | None = None
    machine: str
    versions: dict[str, str]
    data: DataSummary
    moe: ModelResults
    dense: ModelResults
    difference: Score
    equal_time: EqualTime | None = None
    routing: RoutingShares
    samples: list[Sample] = Field(default_factory=list)
    tuned: TunedResults | None = None
    reasoning: ReasoningResults | None = None
    release: ReleaseResults | None = None
    total_seconds: float

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = [
            set(part.per_slice)
            for part in (self.moe.bits_per_byte, self.dense.bits_per_byte, self.difference)
        ]
        if not names[0] == names[1] == names[2]:
            raise ValueError("moe, dense and difference must have the same slices")
        if set(self.moe.probes) != set(self.dense.probes):
            raise ValueError("moe and dense must have the same probes")
        return self

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read `results.json`.

        Errors: `ConfigError` when it is missing, not JSON, or of another shape.
        """
        return cls.from_dict(read_json(path, "give the results.json of a run"), where=str(path))

    def write(self, path: str | Path) -> None:
        """Write as JSON (temporary name, then rename)."""
        write_json(path, self.to_dict())


def equal_time(
    curves: Mapping[str, Sequence[CurvePoint]], metrics: Mapping[str, Sequence[Mapping[str, Any]]]
) -> EqualTime | None:
    """Compare "moe" and "dense" at the last moment when both still trained at the full learning rate.

    The final decay of the learning rate lowers the loss by itself, so a decayed model is never compared with
    one that is not. `metrics`: the records of both metrics streams. None when the curves do not overlap.
    """
    before = {name: _before_decay(curves[name], metrics[name]) for name in ("moe", "dense")}
    if not all(before.values()):
        return None
    seconds = min(curve[-1].seconds for curve in before.values())
    moe, dense = _at(before["moe"], seconds), _at(before["dense"], seconds)
    return None if moe is None or dense is None else EqualTime(seconds=seconds, moe=moe, dense=dense)


def _before_decay(curve: Sequence[CurvePoint], records: Sequence[Mapping[str, Any]]) -> list[CurvePoint]:
    steps = [r for r in records if r["kind"] == "train"]
    peak = max(r["lr"] for r in steps)
    last = max((r["tokens"] for r in steps if r["lr"] >= peak * (1 - 1e-9)), default=0)
    return [point for point in curve if point.tokens <= last]


def _at(curve: Sequence[CurvePoint], seconds: float) -> float | None:
    """Bits per byte at `seconds`, interpolated between two points; None before the first."""
    for before, after in itertools.pairwise(curve):
        if before.seconds <= seconds <= after.seconds:
            share = (seconds - before.seconds) / (after.seconds - before.seconds)
            return before.bits_per_byte + share * (after.bits_per_byte - before.bits_per_byte)
    return curve[-1].bits_per_byte if curve[-1].seconds == seconds else None
