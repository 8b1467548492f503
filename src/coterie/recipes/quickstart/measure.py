"""Measuring a trained pair on the same held-out documents: quality, speed, memory, routing, samples."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from coterie.data.build import Prepared
from coterie.data.heldout import HeldoutDocument
from coterie.evaluate.bits import score_documents
from coterie.evaluate.exact_match import exact_match
from coterie.evaluate.routing.shares import routing_shares
from coterie.evaluate.stats import difference_intervals, score_intervals
from coterie.infer.model import LanguageModel, load
from coterie.infer.speed import measure_decode, measure_prefill
from coterie.plan.counts import count_parameters
from coterie.results.quickstart import EqualTime
from coterie.train.callbacks import read_records
from coterie.train.running import Record

_log = logging.getLogger("coterie")

Probes = Mapping[str, Sequence[tuple[str, str]]]
SPEED_PROMPT = 128
SPEED_TOKENS = 64


def compare(
    runs: Mapping[str, Path],
    prepared: Prepared,
    documents: Sequence[HeldoutDocument],
    probes: Probes,
    prompts: Sequence[tuple[str, str]],
) -> dict[str, Any]:
    """`moe`, `dense`, `difference`, `routing`, `samples` and `equal_time` of `QuickstartResults`, without lr
    fields.

    `runs`: name to the run's directory. `prompts`: (slice, text) to be continued by both.
    """
    models = {name: load(run / "model", device="cpu") for name, run in runs.items()}
    metrics = {name: read_records(run / "metrics.jsonl") for name, run in runs.items()}
    scores = {}
    for name, model in models.items():
        _log.info(f"scoring {len(documents)} held-out documents with {name}")
        scores[name] = score_documents(model.model, documents, prepared.tokenizer.eos_id, prepared.row_length)
    _log.info("measuring speed, routing and samples")
    parts: dict[str, Any] = {
        name: _trained(metrics[name], runs[name] / "model")
        | _size(model)
        | _speed(model, documents)
        | {"bits_per_byte": score_intervals(scores[name]), "probes": exact_match(model, probes)}
        for name, model in models.items()
    }
    return parts | {
        "difference": difference_intervals(scores["moe"], scores["dense"]),
        "equal_time": equal_time(parts["moe"], parts["dense"], metrics),
        "routing": routing_shares(models["moe"].model, documents, row_length=prepared.row_length),
        "samples": _samples(models, prompts),
    }


def _trained(records: Sequence[Record], path: Path) -> dict[str, Any]:
    """What the metrics stream says of a finished run."""
    steps = [r for r in records if r["kind"] == "train"]
    last = steps[-1]
    step_tokens = last["tokens"] / last["step"]
    step_seconds = median(step_tokens / r["tokens_per_second"] for r in steps)
    peak = max(r["peak_memory_bytes"] for r in records if r["kind"] == "end")
    return {
        "path": str(path),
        "tokens": last["tokens"],
        "train_seconds": last["seconds"],
        "flops": last["flops"],
        "step_ms": 1000 * step_seconds,
        "tokens_per_second": step_tokens / step_seconds,
        "peak_memory_bytes": peak,
        "checkpoint_bytes": sum(file.stat().st_size for file in path.iterdir()),
        "curve": [
            {key: r[key] for key in ("tokens", "seconds", "flops")}
            | {"bits_per_byte": r["heldout_bits_per_byte"]}
            for r in records
            if r["kind"] == "eval"
        ],
    }


def _size(model: LanguageModel) -> dict[str, int]:
    counts = count_parameters(model.config)
    return {"total_parameters": counts.total, "active_parameters": counts.active_core}


def _speed(model: LanguageModel, documents: Sequence[HeldoutDocument]) -> dict[str, float]:
    """Reading and writing one sequence, on the longest held-out document's beginning."""
    ids = max(documents, key=lambda d: len(d.ids)).ids[:SPEED_PROMPT].tolist()
    return {
        "prefill_tokens_per_second": measure_prefill(model.model, ids).tokens_per_second,
        "decode_tokens_per_second": measure_decode(model.model, ids, SPEED_TOKENS).tokens_per_second,
    }


def _samples(models: Mapping[str, LanguageModel], prompts: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
    texts = [prompt for _, prompt in prompts]
    settings: dict[str, Any] = {"max_tokens": 48, "temperature": 0.0, "repetition_penalty": 1.1}
    replies = {name: model.generate_many(texts, **settings) for name, model in models.items()}
    return [
        {"slice": slice_, "prompt": prompt} | {name: replies[name][index].text for name in models}
        for index, (slice_, prompt) in enumerate(prompts)
    ]


def equal_time(
    moe: Mapping[str, Any], dense: Mapping[str, Any], metrics: Mapping[str, Sequence[Record]]
) -> dict[str, float] | None:
    """Held-out bits per byte of both at the last moment when both still trained at the full learning rate.

    The learning rate's final decay lowers the loss by itself, so a decayed model is never compared with one
    that is not. None when the curves do not overlap.
    """
    curves = {
        "moe": _before_decay(moe["curve"], metrics["moe"]),
        "dense": _before_decay(dense["curve"], metrics["dense"]),
    }
    if not all(curves.values()):
        return None
    seconds = min(curve[-1]["seconds"] for curve in curves.values())
    values = {name: _at(curve, seconds) for name, curve in curves.items()}
    if values["moe"] is None or values["dense"] is None:
        return None
    return EqualTime.from_dict({"seconds": seconds} | values).to_dict()


def _before_decay(
    curve: Sequence[Mapping[str, float]], records: Sequence[Record]
) -> list[Mapping[str, float]]:
    steps = [r for r in records if r["kind"] == "train"]
    peak = max(r["lr"] for r in steps)
    last = max((r["tokens"] for r in steps if r["lr"] >= peak * (1 - 1e-9)), default=0)
    return [point for point in curve if point["tokens"] <= last]


def _at(curve: Sequence[Mapping[str, float]], seconds: float) -> float | None:
    """Bits per byte at `seconds`, between the two points around it; None before the first."""
    for before, after in itertools.pairwise(curve):
        if before["seconds"] <= seconds <= after["seconds"]:
            share = (seconds - before["seconds"]) / (after["seconds"] - before["seconds"])
            return before["bits_per_byte"] + share * (after["bits_per_byte"] - before["bits_per_byte"])
    return curve[-1]["bits_per_byte"] if curve[-1]["seconds"] == seconds else None
