"""Two training recipes at an equal budget, over seeds: which one to adopt."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from coterie.config import ConfigError, Settings, TrainingError
from coterie.config.budget import TrainingBudget
from coterie.config.files import read_json, write_json
from coterie.config.run import TrainConfig
from coterie.data.build import Prepared, prepare
from coterie.data.heldout import HeldoutDocument
from coterie.evaluate.bits import DocumentScore, bits_per_byte, score_documents
from coterie.infer.model import load
from coterie.machine.facts import machine_words, versions
from coterie.plan.counts import count_parameters, flops_per_token
from coterie.recipes.fresh_model import build_model
from coterie.recipes.pretrain import data_settings
from coterie.recipes.quickstart.lr_sweep import timed
from coterie.recipes.quickstart.train_twin import train_twin
from coterie.report.compare_page import write_recipes_page
from coterie.results.compare import RecipeComparison, RecipeRun, RecipeSide
from coterie.stats.seeds import seeded_difference
from coterie.train.callbacks import read_records

_log = logging.getLogger("coterie")
_TIMING_SHARE = 0.05  # of a budget of time, for measuring the speed of both
_SLACK = 0.95  # of the rest: evaluations, saving, and a machine that slows down
_EVAL_TOKENS = 120_000
_MIN_STEPS = 10


class RecipePlan(Settings):
    """What was asked for and decided; kept as `plan.json`, with which a stopped comparison goes on."""

    recipes: list[dict[str, object]]
    budget: str
    seeds: int
    tokens: list[int] | None = None


def compare_recipes(
    paths: Sequence[str], budget: str, seeds: int, out: str | Path, threads: int | None = None
) -> RecipeComparison:
    """Train both recipes with `seeds` seeds each, and compare them on the same held-out documents.

    Below `out`: a folder for each training (`a-0`, `b-0`, `a-1`...), `plan.json`, `comparison.json` and
    `report.html`. Run again, it goes on where it was stopped.
    Errors: `CoterieError` subclasses, one line each.
    """
    allowed, folder = TrainingBudget.read(budget), Path(out)
    if len(paths) != 2:
        raise ConfigError(f"compare: {len(paths)} recipes given; two are compared at a time")
    names = _names(paths)
    configs = {name: _one(path, folder, threads) for name, path in zip(names, paths, strict=True)}
    prepared = {name: prepare(data_settings(c), folder / "data") for name, c in configs.items()}
    documents = _documents(prepared)
    asked = RecipePlan(recipes=[c.to_dict() for c in configs.values()], budget=allowed.text, seeds=seeds)
    plan = _take_up(asked, folder)
    if plan.tokens is None:
        tokens = _tokens(configs, prepared, allowed)
        plan = plan.model_copy(update={"tokens": tokens})
        write_json(folder / "plan.json", plan.to_dict())
    assert plan.tokens is not None
    runs: dict[str, list[Path]] = {name: [] for name in names}
    for seed in range(seeds):
        for place, name in enumerate(names):
            run = folder / f"{'ab'[place]}-{seed}"
            config = _trained(configs[name], prepared[name], plan.tokens[place], seed, run)
            train_twin(config, run / "recipe.yaml")
            runs[name].append(run)
    found = _compared(dict(zip(names, paths, strict=True)), runs, prepared, documents, allowed)
    write_json(folder / "comparison.json", found.to_dict())
    write_recipes_page(found, folder / "report.html")
    return found


def _names(paths: Sequence[str]) -> list[str]:
    """Short names of the files, different from each other."""
    stems = [Path(path).stem for path in paths]
    return stems if len(set(stems)) == 2 else [str(path) for path in paths]


def _one(path: str, folder: Path, threads: int | None) -> TrainConfig:
    config = TrainConfig.from_yaml(path, [f"out={folder}"])
    if config.codistil is not None:
        raise ConfigError(f"{path}: trains students too (codistil); compare recipes of one model each")
    if threads is None:
        return config
    return config.model_copy(update={"threads": threads})


def _documents(prepared: Mapping[str, Prepared]) -> dict[str, list[HeldoutDocument]]:
    """The same held-out documents in the tokens of each recipe. Errors: `ConfigError` if they differ."""
    everything = {name: data.heldout_documents() for name, data in prepared.items()}
    first, second = everything.values()
    keys = [[(d.slice, d.num_bytes) for d in documents] for documents in (first, second)]
    if keys[0] != keys[1]:
        raise ConfigError(
            "compare: the recipes hold out different text, so they cannot be compared in pairs; give both "
            "the same data.sources, data.heldout_fraction, data.seed and data.max_bytes"
        )
    if len(first) < 2:
        raise ConfigError("compare: the text holds out fewer than two documents; give more text")
    step = max(1, -(-sum(len(d.ids) for d in first) // _EVAL_TOKENS))
    return {name: documents[::step] for name, documents in everything.items()}


def _take_up(asked: RecipePlan, folder: Path) -> RecipePlan:
    """The plan of a stopped comparison with the same settings, else the one asked for."""
    path = folder / "plan.json"
    if not path.is_file():
        return asked
    before = RecipePlan.from_dict(read_json(path), str(path))
    if before.model_copy(update={"tokens": None, "seeds": asked.seeds}) != asked:
        raise ConfigError(
            f"{folder}: holds a comparison of other recipes or another budget; choose another --out, or "
            "remove it"
        )
    _log.info("going on with the comparison in %s", folder)
    return before.model_copy(update={"seeds": asked.seeds})


def _tokens(
    configs: Mapping[str, TrainConfig], prepared: Mapping[str, Prepared], budget: TrainingBudget
) -> list[int]:
    """Tokens that each recipe may train on. Errors: `TrainingError` for a budget of fewer than ten steps."""
    found = []
    for name, config in configs.items():
        data = prepared[name]
        if budget.kind == "tokens":
            tokens = budget.amount
        elif budget.kind == "flops":
            model = build_model(config.model, data.tokenizer, torch.float32, 0, config.balance)
            tokens = budget.amount / flops_per_token(model.config, data.row_length, training=True)
        else:
            speed = timed({name: config}, data, _TIMING_SHARE * budget.amount)[name]
            tokens = (1 - _TIMING_SHARE) * _SLACK * budget.amount / speed.seconds_per_token
        step = config.batch_rows * config.accumulate * data.row_length
        if tokens < _MIN_STEPS * step:
            raise TrainingError(
                f"{name}: {budget.text} is {int(tokens):,} tokens, and {_MIN_STEPS} steps take "
                f"{_MIN_STEPS * step:,}; give {math.ceil(_MIN_STEPS * step / tokens)} times the budget"
            )
        _log.info("%s: %s tokens in each training", name, f"{int(tokens):,}")
        found.append(int(tokens))
    return found


def _trained(config: TrainConfig, data: Prepared, tokens: int, seed: int, run: Path) -> TrainConfig:
    """One training: the recipe with its budget, a seed, and a folder."""
    steps = max(1, tokens // (config.batch_rows * config.accumulate * data.row_length))
    return config.model_copy(
        update={
            "out": str(run),
            "data_dir": str(data.directory.parent),
            "seed": config.seed + seed,
            "steps": steps,
            "tokens": None,
            "eval_every": 0,
            "save_every": max(1, steps // 4),
            "keep": 1,
        }
    )


def _compared(
    paths: Mapping[str, str],
    runs: Mapping[str, Sequence[Path]],
    prepared: Mapping[str, Prepared],
    documents: Mapping[str, Sequence[HeldoutDocument]],
    budget: TrainingBudget,
) -> RecipeComparison:
    sides, scores = [], []
    for name, path in paths.items():
        side, scored = _side(name, path, runs[name], prepared[name], documents[name])
        sides.append(side)
        scores.append(scored)
    first, second = (np.array([[s.nats for s in run] for run in side]) / math.log(2) for side in scores)
    sizes = np.array([s.num_bytes for s in scores[0][0]], dtype=np.float64)
    found = seeded_difference(second - first, sizes)
    return RecipeComparison(
        first=sides[0],
        second=sides[1],
        budget=budget.text,
        difference=found.interval,
        per_seed=found.per_seed,
        mde80=found.mde80,
        from_seeds=found.from_seeds,
        machine=machine_words(),
        versions=versions(),
    )


def _side(
    name: str, path: str, runs: Sequence[Path], data: Prepared, documents: Sequence[HeldoutDocument]
) -> tuple[RecipeSide, list[list[DocumentScore]]]:
    """One recipe's trainings, and the scores of the documents by each."""
    made, scores = [], []
    for seed, run in enumerate(runs):
        model = load(run / "model")
        scored = score_documents(model.model, documents, data.tokenizer.document_start[0], data.row_length)
        counts = count_parameters(model.config)
        last = [record for record in read_records(run / "metrics.jsonl") if record["kind"] == "train"][-1]
        scores.append(scored)
        made.append(
            RecipeRun(
                seed=seed,
                bits=bits_per_byte(scored),
                tokens=last["tokens"],
                seconds=last["seconds"],
                flops=last["flops"],
                model=str(run / "model"),
            )
        )
    return RecipeSide(
        name=name, path=path, parameters=counts.total, active_parameters=counts.active_core, runs=made
    ), scores
