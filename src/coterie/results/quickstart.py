"""What a comparison of a mixture of experts with its dense twin measured: the schema of `results.json`.

The report page, the terminal summary and the verdict use only this record and the metrics stream. Bits per
byte are of held-out documents; every interval is a 95 % interval over documents.
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from coterie.config import Settings
from coterie.config.files import read_json, write_json
from coterie.results.intervals import Interval, Score
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
    training. `probes`: share of exact answers by test.
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


class QuickstartResults(Settings):
    """The content of `results.json`. `difference`: MoE minus dense by document (below 0: MoE better)."""

    seed: int
    minutes: float
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
