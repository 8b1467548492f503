"""Measuring a trained pair on the same held-out documents: quality, speed, memory, routing, samples."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from coterie.config.kernels import Kernels
from coterie.data.build import Prepared
from coterie.evaluate.bits import DocumentScore, score_documents
from coterie.evaluate.exact_match import exact_match
from coterie.evaluate.routing.shares import routing_shares
from coterie.evaluate.stats import difference_intervals, score_intervals
from coterie.infer.model import LanguageModel, load
from coterie.infer.speed import measure_decode, measure_prefill
from coterie.native.choice import plan_for
from coterie.plan.counts import count_parameters
from coterie.recipes.quickstart.lr_sweep import Sweep
from coterie.recipes.quickstart.questions import Questions
from coterie.results.intervals import Score
from coterie.results.quickstart import CurvePoint, EqualTime, ModelResults, Sample, equal_time
from coterie.results.routing import RoutingShares
from coterie.train.callbacks import read_records
from coterie.train.running import Record

_log = logging.getLogger("coterie")

SPEED_PROMPT = 128
SPEED_TOKENS = 64


@dataclass(frozen=True)
class Comparison:
    """The measured part of `QuickstartResults`."""

    moe: ModelResults
    dense: ModelResults
    difference: Score
    equal_time: EqualTime | None
    routing: RoutingShares
    samples: list[Sample]


def compare(
    runs: Mapping[str, Path], sweeps: Mapping[str, Sweep], prepared: Prepared, questions: Questions
) -> Comparison:
    """Measure both twins. `runs`: name ("moe", "dense") to the run's directory."""
    documents = questions.documents
    models = {name: load(run / "model", device="cpu") for name, run in runs.items()}
    metrics = {name: read_records(run / "metrics.jsonl") for name, run in runs.items()}
    scores = {}
    for name, model in models.items():
        _log.info(f"scoring {len(documents)} held-out documents with {name}")
        scores[name] = score_documents(
            model.model, documents, prepared.tokenizer.document_start[0], prepared.row_length
        )
    _log.info("measuring speed, routing and samples")
    # On the same kernels, or the ratio would be theirs. `auto` leaves models as small as these to PyTorch.
    plans = [plan_for(model.model, "native") for model in models.values()]
    kernels: Kernels = "torch" if any(isinstance(plan, str) for plan in plans) else "native"
    results = {
        name: _results(
            model, runs[name] / "model", metrics[name], sweeps[name], scores[name], questions, kernels
        )
        for name, model in models.items()
    }
    return Comparison(
        results["moe"],
        results["dense"],
        difference_intervals(scores["moe"], scores["dense"]),
        equal_time({name: result.curve for name, result in results.items()}, metrics),
        routing_shares(models["moe"].model, documents, row_length=prepared.row_length),
        _samples(models, questions.prompts),
    )


def _results(
    model: LanguageModel,
    path: Path,
    records: Sequence[Record],
    sweep: Sweep,
    scores: Sequence[DocumentScore],
    questions: Questions,
    kernels: Kernels,
) -> ModelResults:
    """Everything about one twin; its training is read from the metrics stream."""
    steps = [r for r in records if r["kind"] == "train"]
    last = steps[-1]
    step_tokens = last["tokens"] / last["step"]
    step_seconds = median(step_tokens / r["tokens_per_second"] for r in steps)
    counts = count_parameters(model.config)
    # Speed is measured on the beginning of the longest document.
    ids = max(questions.documents, key=lambda d: len(d.ids)).ids[:SPEED_PROMPT].tolist()
    decoding = measure_decode(model.model, ids, SPEED_TOKENS, kernels=kernels)
    return ModelResults(
        path=str(path),
        total_parameters=counts.total,
        active_parameters=counts.active_core,
        tokens=last["tokens"],
        bits_per_byte=score_intervals(scores),
        lr=sweep.best,
        lr_sweep=list(sweep.points),
        step_ms=1000 * step_seconds,
        tokens_per_second=step_tokens / step_seconds,
        prefill_tokens_per_second=measure_prefill(model.model, ids).tokens_per_second,
        decode_tokens_per_second=decoding.tokens_per_second,
        decode_kernels=decoding.kernels,
        peak_memory_bytes=max(r["peak_memory_bytes"] for r in records if r["kind"] == "end"),
        train_seconds=last["seconds"],
        flops=last["flops"],
        checkpoint_bytes=sum(file.stat().st_size for file in path.iterdir()),
        curve=[_point(r) for r in records if r["kind"] == "eval"],
        probes=exact_match(model, questions.probes),
    )


def _point(record: Record) -> CurvePoint:
    return CurvePoint(
        tokens=record["tokens"],
        seconds=record["seconds"],
        flops=record["flops"],
        bits_per_byte=record["heldout_bits_per_byte"],
    )


def _samples(models: Mapping[str, LanguageModel], prompts: Sequence[tuple[str, str]]) -> list[Sample]:
    texts = [prompt for _, prompt in prompts]
    moe, dense = (
        models[name].generate_many(texts, max_tokens=48, temperature=0.0, repetition_penalty=1.1)
        for name in ("moe", "dense")
    )
    return [
        Sample(slice=slice_, prompt=prompt, moe=moe[index].text, dense=dense[index].text)
        for index, (slice_, prompt) in enumerate(prompts)
    ]
