"""A ladder of stages: each is a recipe with its folder, skipped when it is done. Run again, it goes on."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coterie.adapters.apply import base_of, is_variant
from coterie.checkpoints.checkpoint import Checkpoint
from coterie.checkpoints.commit import RunLock
from coterie.config.errors import ConfigError
from coterie.config.files import present, read_json, write_json
from coterie.config.pipeline import (
    PREVIOUS,
    STAGES,
    PipelineConfig,
    StageSettings,
    references,
    split_reference,
    texts_changed,
)
from coterie.machine.facts import versions
from coterie.plan.counts import count_parameters, flops_per_token
from coterie.recipes.pipeline_stages import KINDS, StageCost, StageKind
from coterie.reinforce.pool import read_pool
from coterie.reinforce.sampling import held_out_answers, load_sampler
from coterie.report.pipeline_page import write_pipeline_page
from coterie.results.accuracy import accuracy, accuracy_change
from coterie.results.pipeline import PipelineRecord, StageRecord
from coterie.tasks import load_task
from coterie.tasks.check import require_passed
from coterie.tasks.levels import read_levels
from coterie.tasks.problem import TaskFamily

_log = logging.getLogger("coterie")
RECORD, PAGE, DONE = "pipeline.json", "report.html", "stage.json"
_SHARED = ("task", "levels", "max_tokens", "instruction", "seed", "threads", "device")
_FREE = ("out", "threads", "device")  # settings that may differ when a pipeline goes on
_PAGES = ("report.html", "tune/report.html")


@dataclass(frozen=True)
class Stage:
    """A stage that can run. `product`: what it will make; `after`: the stages it starts from."""

    name: str
    kind: str
    recipe: StageKind
    settings: Any
    product: Path
    after: tuple[str, ...]


def planned(config: PipelineConfig) -> list[Stage]:
    """All stages with their settings checked and their references replaced.

    Errors: `ConfigError` naming the stage.
    """
    found: dict[str, Stage] = {}
    for stage in config.stages:
        where = f"stage '{stage.name}'"
        if stage.kind not in KINDS:
            raise ConfigError(f"{where}: there is no recipe '{stage.kind}'; choose {', '.join(KINDS)}")
        recipe = KINDS[stage.kind]
        models = [one for one in found.values() if one.recipe.makes_model]
        previous = models[-1] if models else None
        given = texts_changed(
            stage.given, functools.partial(_meant, config=config, earlier=dict(found), where=where)
        )
        assert isinstance(given, dict)
        if "out" in given:
            raise ConfigError(f"{where}: 'out' follows from the name of the stage; leave it out")
        settings = recipe.settings.from_dict(_complete(given, config, recipe, stage), where)
        names = [previous.name if name == PREVIOUS and previous else name for name in references(stage.given)]
        after = tuple(dict.fromkeys(names))
        found[stage.name] = Stage(stage.name, stage.kind, recipe, settings, recipe.product(settings), after)
    return list(found.values())


def _meant(text: str, config: PipelineConfig, earlier: Mapping[str, Stage], where: str) -> str:
    """What a text in a stage's settings means: a reference is what a stage makes, or a file in its folder."""
    if text == PREVIOUS:
        models = [stage for stage in earlier.values() if stage.recipe.makes_model]
        if not models:
            raise ConfigError(f"{where}: no stage before it makes a model; name one instead of '{PREVIOUS}'")
        return str(models[-1].product)
    if not text.startswith(STAGES):
        return text
    name, rest = split_reference(text)
    place = config.folder(name) if rest.startswith("/") else earlier[name].product
    return f"{place}{rest}"


def _complete(
    given: dict[str, Any], config: PipelineConfig, recipe: StageKind, stage: StageSettings
) -> dict[str, Any]:
    """The settings of a stage with those that all share, its folder, and its budgets scaled."""
    fields = recipe.settings.model_fields
    whole = {key: getattr(config, key) for key in _SHARED if key in fields}
    if "pool" in given:
        whole.pop("levels", None)
    if "eval_problems" in fields:
        whole["eval_problems"] = config.eval_problems
    whole = {key: value for key, value in whole.items() if value is not None} | given
    folder = config.folder(stage.name)
    whole["out"] = str(folder / "pool.jsonl" if "high" in fields else folder)
    for key in recipe.scaled if stage.scaled and config.scale != 1 else ():
        holder, _, last = key.rpartition(".")
        part = whole.get(holder) if holder else whole
        default = fields[last].default if not holder else None
        budget = part.get(last, default) if isinstance(part, dict) else None
        if isinstance(part, dict) and isinstance(budget, int | float):
            scaled = {last: max(1, round(budget * config.scale))}
            whole = whole | ({holder: part | scaled} if holder else scaled)
    return whole


def run_pipeline(config: PipelineConfig) -> PipelineRecord:
    """Run the stages that are not done.

    Writes a folder for each stage below `config.out`, and after each stage `pipeline.json` and `report.html`.
    Errors: `CoterieError` subclasses, one line each: for wrong settings of any stage before the first one
    starts; `StoppedError` where a signal stopped a stage.
    """
    stages = planned(config)
    family = load_task(config.task)
    levels = read_levels(config.levels, family.levels)
    for name in {config.task, *(getattr(stage.settings, "task", config.task) for stage in stages)}:
        require_passed(load_task(name))
    out = Path(config.out)
    with RunLock(out):
        records: dict[str, StageRecord] = {}
        for number, stage in enumerate(stages, 1):
            identity = _identity(stage, records)
            done = _done(config, stage, identity)
            if done is None:
                _log.info("stage %d of %d: %s (%s)", number, len(stages), stage.name, stage.kind)
                done = _run(config, stage, identity, family, levels, records)
                write_json(config.folder(stage.name) / DONE, done.to_dict())
            _log.info("%s", done.words())
            records[stage.name] = done
            record = PipelineRecord(
                config=config.to_dict(),
                task=family.name,
                task_version=family.version,
                stages=list(records.values()),
                versions=versions(),
            )
            write_json(out / RECORD, record.to_dict())
            write_pipeline_page(record, out / PAGE, f"Pipeline {out.name}")
        return record


def _identity(stage: Stage, records: Mapping[str, StageRecord]) -> str:
    """A hash of a stage's settings and of what it starts from."""
    settings = {key: value for key, value in _plain(stage).items() if key not in _FREE}
    before = [records[name].identity for name in stage.after]
    text = json.dumps([stage.kind, settings, before], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(stage: Stage) -> dict[str, Any]:
    plain: dict[str, Any] = stage.settings.to_dict()
    return plain


def _done(config: PipelineConfig, stage: Stage, identity: str) -> StageRecord | None:
    """The record of a stage that is done; None for one that is not.

    Errors: `ConfigError` where it was done with other settings, or from another result.
    """
    path = config.folder(stage.name) / DONE
    if not present(path, ConfigError) or not stage.product.exists():
        return None
    found = StageRecord.from_dict(read_json(path, "remove it to run the stage again", ConfigError), str(path))
    if found.identity == identity:
        return found
    now = _plain(stage)
    names = sorted(now.keys() | found.settings.keys())
    other = [name for name in names if name not in _FREE and now.get(name) != found.settings.get(name)]
    why = f"with another '{other[0]}'" if other else f"from another result of {', '.join(stage.after)}"
    raise ConfigError(
        f"{path.parent}: this stage was done {why}; remove the folder to run it again, or choose another out"
    )


def _run(
    config: PipelineConfig,
    stage: Stage,
    identity: str,
    family: TaskFamily,
    levels: list[int],
    records: Mapping[str, StageRecord],
) -> StageRecord:
    """Run a stage to its end and measure what it made."""
    begun = time.monotonic()
    if getattr(stage.settings, "pool", None) is not None:
        read_pool(stage.settings.pool, load_task(stage.settings.task))
    cost = stage.recipe.run(stage.settings)
    seconds = max(time.monotonic() - begun, cost.seconds)
    folder, out = config.folder(stage.name), Path(config.out)
    pages = [page for page in _PAGES if (folder / page).is_file()]
    facts: dict[str, Any] = {
        "name": stage.name,
        "kind": stage.kind,
        "folder": stage.name,
        "path": str(stage.product.relative_to(out)),
        "page": f"{stage.name}/{pages[0]}" if pages else None,
        "tokens_trained": cost.trained,
        "tokens_sampled": cost.sampled,
        "context": cost.context,
        "seconds": seconds,
        "identity": identity,
        "settings": _plain(stage),
    }
    if stage.recipe.makes_model:
        facts |= _measured(config, stage, cost, family, levels, records)
    return StageRecord.from_dict(facts, stage.name)


def _measured(
    config: PipelineConfig,
    stage: Stage,
    cost: StageCost,
    family: TaskFamily,
    levels: list[int],
    records: Mapping[str, StageRecord],
) -> dict[str, Any]:
    """Held-out accuracy of a stage's model, its change, its size, and the operations that it took."""
    model = str(stage.product)
    answers = held_out_answers(load_sampler(model, family, config), levels, config.eval_problems, config.seed)
    right = "".join(str(int(one)) for one in answers.right)
    before = [record.right for record in records.values() if record.right is not None]
    change = accuracy_change([one == "1" for one in before[-1]], answers.right) if before else None
    shape = Checkpoint.open(base_of(model) if is_variant(model) else model, weights=False).config
    counts, context = count_parameters(shape), max(1, cost.context)
    flops = cost.trained * flops_per_token(shape, context, training=True)
    return {
        "accuracy": accuracy(answers.right),
        "change": change,
        "right": right,
        "mean_tokens": answers.mean_tokens,
        "parameters": counts.total,
        "active_parameters": counts.active_all,
        "flops": flops + cost.sampled * flops_per_token(shape, context),
    }
