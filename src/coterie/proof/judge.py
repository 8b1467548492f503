"""Judge a written result: is it the model it must be?

`check_record` asks whether a model is the one that was recorded when it was saved. `judge` asks whether a
result read back from disk is the tuned model and not the base that it was tuned from.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from coterie.config import CheckpointError
from coterie.nn.transformer import Transformer
from coterie.proof.difference import ROUNDED, SAME, Difference, difference
from coterie.proof.records import ProbeRecord, load_probes, record
from coterie.text.tokenizer import Tokenizer

# The least base gravity of a result. A tolerance alone cannot find a lost adapter: where tuning moved the
# answers by less than the tolerance, the base itself passes. Gravity is relative to that movement. At 0.9 the
# written model may lie a ninth as far from the tuned model as from the base: rounding a merge to bfloat16
# stays above it unless the change drowns in the rounding, while one of ten equally tuned parts that was lost
# or misread falls below.
FAITHFUL = 0.9
UNCHANGED = 1e-6  # nats: a tuned model whose every answer is this close to its base's has learnt nothing

Ruling = Literal["faithful", "unchanged", "base", "between", "different"]


@dataclass(frozen=True)
class Judgement:
    """What `judge` found.

    `ruling`: "faithful" (the result is the tuned model); or, in the order of the tests, "unchanged" (the
    tuned model answers as its base), "base" (the result is still the base), "between" (part of the change was
    lost), "different" (far enough from the base, but further from the tuned model than `tolerance`).
    `moved`: the tuned model's difference from the base. `lost`: the result's difference from the tuned model.
    `gravity`: 1 where the result is the tuned model, 0 where it is the base.
    """

    ruling: Ruling
    moved: Difference
    lost: Difference
    gravity: float
    tolerance: float

    @property
    def faithful(self) -> bool:
        """Whether the result is the tuned model."""
        return self.ruling == "faithful"

    @property
    def reason(self) -> str:
        """The ruling as what the result "is ...", with the figures behind it, for a message."""
        gravity = f"base gravity {self.gravity:.2f}, at least {FAITHFUL} is expected; 1 is tuned, 0 the base"
        mean, most = f"{self.lost.mean_logprob:.3g}", f"{self.lost.max_logprob:.3g}"
        return {
            "faithful": "is the tuned model",
            "unchanged": "is the base, because the tuned model answers exactly as its base",
            "base": f"is still the base ({gravity})",
            "between": f"is not the tuned model but lies between it and the base ({gravity})",
            "different": f"is not the tuned model: log-probabilities differ by {mean} on average, {most} at "
            f"most (tolerance {self.tolerance:g}, base gravity {self.gravity:.2f})",
        }[self.ruling]


def judge(base: ProbeRecord, tuned: ProbeRecord, written: ProbeRecord, tolerance: float = SAME) -> Judgement:
    """Judge a written result by three records on the same sequences.

    `tolerance`: allowed mean difference of log-probabilities from the tuned model, in nats (`SAME`, or
    `ROUNDED` for a result in fewer bits).
    Gravity is d(written, base) / (d(written, tuned) + d(written, base)), d the mean difference of
    log-probabilities. Errors: `CheckpointError` when the records are of different sequences.
    """
    moved, lost = difference(base, tuned), difference(tuned, written)
    to_base, to_tuned = difference(base, written).mean_logprob, lost.mean_logprob
    gravity = 1.0 if to_tuned == 0 else to_base / (to_tuned + to_base)
    ruling: Ruling = "faithful"
    if moved.max_logprob <= UNCHANGED:
        ruling = "unchanged"
    elif gravity <= 1 - FAITHFUL:  # with base and tuned exchanged, this would be a faithful copy of the base
        ruling = "base"
    elif gravity < FAITHFUL:
        ruling = "between"
    elif not lost.within(tolerance):
        ruling = "different"
    return Judgement(ruling, moved, lost, gravity, tolerance)


def check_probes(directory: Path, model: Transformer, tokenizer: Tokenizer | None = None) -> Difference:
    """`check_record` with the record that `directory` holds.

    Errors: `CheckpointError` as there, and where the directory holds none.
    """
    stored = load_probes(directory)
    if stored is None:
        raise CheckpointError(f"{directory}: holds no probes to check; save the model with probes=True first")
    return check_record(stored, model, tokenizer, directory)


def check_record(
    stored: ProbeRecord, model: Transformer, tokenizer: Tokenizer | None, where: Path
) -> Difference:
    """Run `model` on the recorded sequences; the difference when it is the model that was recorded.

    Weights in fewer bits than the recorded ones may differ by their rounding. `where`: the record's
    directory, for messages. Errors: `CheckpointError`, one line, when the tokenizer is another one or the
    model answers differently.
    """
    if tokenizer is not None and stored.tokenizer and tokenizer.sha256 != stored.tokenizer:
        raise CheckpointError(
            f"{where}: tokenizer.json is not the one its probes were recorded with; restore it"
        )
    found = record(model, stored.sequences, tokenizer)
    result = difference(stored, found)
    exact = found.dtype in (stored.dtype, "float32")
    if not result.within(SAME if exact else ROUNDED):
        raise CheckpointError(
            f"{where}: is not the model its probes were recorded from: log-probabilities differ by "
            f"{result.mean_logprob:.3g} on average and {result.max_logprob:.3g} at most "
            f"(probe {result.worst[0]}, token {result.worst[1]}); use another copy"
        )
    return result
