"""The main job: train a mixture of experts and its dense twin on the same text, compare, and report."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path

import torch

from coterie.config.files import write_text
from coterie.config.run import TrainConfig
from coterie.data.build import Prepared, prepare
from coterie.machine.facts import machine_words, versions
from coterie.machine.glibc import keep_freed_memory
from coterie.recipes.heldout import EVAL_TOKENS, evaluation_documents
from coterie.recipes.quickstart.from_model import affordable_tokens, pair_from
from coterie.recipes.quickstart.lr_sweep import sweep, timed
from coterie.recipes.quickstart.measure import compare
from coterie.recipes.quickstart.plan import TWINS, Plan, check_budget, take_up
from coterie.recipes.quickstart.questions import check_enough, data_summary, questions
from coterie.recipes.quickstart.reasoning import reason_chapter
from coterie.recipes.quickstart.release import release_chapter
from coterie.recipes.quickstart.train_twin import train_twin
from coterie.recipes.quickstart.tuning import tune_chapter
from coterie.recipes.quickstart.twins import twin_config, twins, with_budget
from coterie.report.page import write_report
from coterie.results.quickstart import QuickstartResults
from coterie.train.callbacks import read_records

_log = logging.getLogger("coterie")

_COMPARE_SHARE = 0.15  # of the whole time: scoring, speed, tuning, report
_REASON_SHARE = 0.2  # of ten minutes or more, for fresh twins: the cold start and the rewards
_WHOLE_MINUTES = 10.0  # a shorter run gives them a smaller share, because the comparison needs its time
_SWEEP_SHARE = 0.2  # of what is left after the text is prepared
_TIMING_SHARE = 0.1  # of the whole time, for a given model
_SLACK = 0.9  # of the training time: evaluations, saving, and a machine that slows down


def quickstart(
    minutes: float, data: str | None, seed: int, out: Path, threads: int | None, start: str | None = None
) -> QuickstartResults:
    """Run the whole comparison below `out`, or resume a stopped one; returns what `results.json` holds.

    `data`: None for the embedded corpus, else a source as `coterie train` takes it. `start`: a dense model;
    it and a mixture made from it are trained further, instead of fresh twins.
    Errors: `CoterieError` subclasses, one line each.
    """
    started = time.monotonic()
    if threads is not None:
        torch.set_num_threads(threads)
    keep_freed_memory()
    plan = take_up(Plan(minutes=minutes, data=data, seed=seed, threads=threads, start=start), out)
    if start is None:
        pair = dict(zip(TWINS, twins(minutes), strict=True))
        configs = {name: twin_config(pair[name], plan, out / name, out / "data") for name in TWINS}
    else:
        configs = pair_from(plan, start, out)
    prepared = prepare(configs["moe"].data, out / "data")
    check_enough(prepared, configs["moe"])
    if plan.sweeps is None:
        plan = _decide(plan, configs, prepared, started)
        write_text(out / "plan.json", plan.model_dump_json(indent=1) + "\n")
    assert plan.sweeps is not None
    for name in TWINS:
        train_twin(with_budget(configs[name], plan, name), out / f"{name}.yaml")
    asked = questions(prepared, plan)
    found = compare({name: out / name for name in TWINS}, plan.sweeps, prepared, asked)
    tuned = tune_chapter(out, minutes, seed, threads) if start is None else None
    reasoning = release = None
    if start is None:
        seconds = _reason_share(plan) * 60 * minutes
        reasoning = reason_chapter(out, seconds, found.moe.tokens_per_second, seed, threads)
        release = release_chapter(out, Path(reasoning.path), threads)
    # A resumed run has not measured its earlier part, so the time is at least what the records add up to.
    recorded = found.moe.train_seconds + found.dense.train_seconds + plan.seconds_before
    QuickstartResults(
        seed=seed,
        minutes=minutes,
        start=start,
        machine=machine_words(),
        versions=versions(),
        data=data_summary(prepared, plan, asked.documents),
        moe=found.moe,
        dense=found.dense,
        difference=found.difference,
        equal_time=found.equal_time,
        routing=found.routing,
        samples=found.samples,
        tuned=tuned,
        reasoning=reasoning,
        release=release,
        total_seconds=max(time.monotonic() - started, recorded),
    ).write(out / "results.json")
    return redraw(out)[0]


def _decide(plan: Plan, configs: Mapping[str, TrainConfig], prepared: Prepared, started: float) -> Plan:
    """Search both learning rates alike, then give both twins the number of tokens that fits in the time.

    A given model has a default for its rate, which both take.
    """
    chapters = _COMPARE_SHARE + _reason_share(plan)
    end = started + 60 * plan.minutes * (1 - chapters)
    if plan.start is None:
        documents = evaluation_documents(prepared, EVAL_TOKENS)
        sweeps = sweep(configs, prepared, documents, _SWEEP_SHARE * (end - time.monotonic()))
    else:
        sweeps = timed(configs, prepared, _TIMING_SHARE * 60 * plan.minutes)
    per_token = sum(part.seconds_per_token for part in sweeps.values())
    tokens = int((end - time.monotonic()) * _SLACK / per_token)
    if plan.start is not None:
        tokens = affordable_tokens(tokens)
    # Of a further minute, a part goes to the search or to the measurements around the training.
    per_minute = 60 * (1 - chapters) * _SLACK * (1 - _SWEEP_SHARE) / per_token
    check_budget(tokens, configs["moe"].batch_rows * prepared.row_length, plan, per_minute)
    _log.info(f"both will see {tokens:,} tokens")
    return plan.model_copy(
        update={"sweeps": sweeps, "tokens": tokens, "seconds_before": time.monotonic() - started}
    )


def _reason_share(plan: Plan) -> float:
    """The part of the whole time for the chapter on reasoning, which a given model does not have."""
    return 0.0 if plan.start is not None else _REASON_SHARE * min(1.0, plan.minutes / _WHOLE_MINUTES)


def redraw(out: Path) -> tuple[QuickstartResults, Path]:
    """Write `report.html` from `results.json` and the metrics; returns the results and the page's path."""
    results = QuickstartResults.read(out / "results.json")
    metrics = {name: read_records(out / name / "metrics.jsonl") for name in TWINS}
    write_report(results, metrics, out / "report.html")
    return results, out / "report.html"
