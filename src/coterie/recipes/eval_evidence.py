"""What a report says besides scores: the training data, the locked plan, the looks at the test sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from coterie.benchmarks import Benchmark
from coterie.checkpoints.checkpoint import Checkpoint
from coterie.checkpoints.commit import MANIFEST
from coterie.config import Settings
from coterie.config.errors import ConfigError
from coterie.config.evaluate import EvalConfig
from coterie.config.files import file_sha256, read_json, write_json
from coterie.contamination.query import query
from coterie.evaluate.looks import look_facts
from coterie.evaluate.splits import queried, score_splits, split_finding
from coterie.evidence.canonical import digest_of
from coterie.evidence.ledger import Ledger, commitment, outcomes_of
from coterie.recipes.trained_stages import Searched, searched
from coterie.results.evaluation import (
    ItemRecord,
    LookFacts,
    ModelIdentity,
    PlanFacts,
    TaskResult,
    TrainingFacts,
    TrainingStage,
)

PLAN_SCHEMA = "coterie.eval_plan/v1"
# What decides how items are asked. The model is not among them: a plan is locked before one is chosen.
_ASKED = (
    "settings", "limit", "max_tokens", "temperature", "seeds", "effort", "reasoning_tokens", "form", "system",
    "turns", "exact", "band", "band_items", "twins", "shuffled",
    "orders", "shards", "disguised", "canaries",
)  # fmt: skip


class LockedPlan(Settings):
    """A plan as its file holds it. `tasks`: digest of the items of each task; `asked`: how they are asked.

    `ledger_pos`: looks that the ledger held when it was locked; None where there was no ledger.
    """

    schema_name: str = PLAN_SCHEMA
    tasks: dict[str, str]
    asked: dict[str, Any]
    locked_at: str
    ledger_pos: int | None = None

    def facts(self) -> PlanFacts:
        """What a report says of it."""
        content = {"tasks": self.tasks, "asked": self.asked}
        return PlanFacts(digest=digest_of(content), locked_at=self.locked_at, ledger_pos=self.ledger_pos)


def stages_behind(config: EvalConfig, checkpoint: Checkpoint | None) -> Searched:
    """Every stage of the model's training with its index; none for a server.

    `config.data_index`: further files or folders of indexes.
    """
    if checkpoint is None:
        return searched(config.data_index[0], list(config.data_index[1:])) if config.data_index else []
    where = checkpoint.path if config.adapter is None else Path(config.adapter)
    if (where / MANIFEST).is_file():
        return searched(where, list(config.data_index))
    return [one for path in config.data_index for one in searched(path)]


def training_facts(checkpoint: Checkpoint | None, stages: Searched) -> TrainingFacts:
    """The digest of the manifest, and the stages with the digests of their indexes."""
    manifest = None if checkpoint is None else checkpoint.path / MANIFEST
    known = manifest is not None and manifest.is_file()
    return TrainingFacts(
        manifest=f"sha256:{file_sha256(manifest)}" if known and manifest is not None else None,
        stages=[
            TrainingStage(
                name=facts.stage,
                tokens=facts.tokens,
                index=f"sha256:{facts.digest}" if facts.digest else None,
                index_coverage=facts.coverage,
            )
            for facts, _ in stages
        ],
    )


def with_splits(
    result: TaskResult, benchmark: Benchmark, records: Sequence[ItemRecord], stages: Searched
) -> TaskResult:
    """The result with its score by what the training data holds of the items.

    It stays as it is where nothing is known of the training data: no index, nothing to search.
    """
    if all(index is None for _, index in stages):
        return result
    asked = {record.id for record in records}
    items = [item for item in benchmark.items() if item.id in asked]
    found = query(queried(items), result.items, stages)
    splits = score_splits(records, found, result.score.lower_is_better)
    detectors = [*result.detectors, split_finding(splits)]
    return result.model_copy(update={"splits": splits, "detectors": detectors})


def lock_plan(config: EvalConfig, benchmarks: Sequence[Benchmark], path: Path) -> LockedPlan:
    """Write the plan that a later evaluation must follow. Errors: `ConfigError` if `path` exists."""
    if path.exists():
        raise ConfigError(f"{path}: exists; a plan is locked once, so give another name")
    plan = LockedPlan(
        tasks=_items(config, benchmarks),
        asked=_asked(config),
        locked_at=_now(),
        ledger_pos=None if config.ledger is None else len(Ledger(config.ledger).entries()),
    )
    write_json(path, plan.to_dict())
    return plan


def followed_plan(config: EvalConfig, benchmarks: Sequence[Benchmark]) -> PlanFacts | None:
    """The plan that `config` follows; None where it names none.

    Errors: `ConfigError`, one line: a file that is no plan, and the first thing that is done otherwise.
    """
    if config.plan is None:
        return None
    plan = LockedPlan.from_dict(
        read_json(Path(config.plan), "give what coterie eval lock wrote"), config.plan
    )
    if plan.schema_name != PLAN_SCHEMA:
        raise ConfigError(f"{config.plan}: is of the schema '{plan.schema_name}', not {PLAN_SCHEMA}")
    tasks, asked = _items(config, benchmarks), _asked(config)
    for name in [*plan.tasks, *tasks]:
        if tasks.get(name) != plan.tasks.get(name):
            what = "has other items" if name in tasks and name in plan.tasks else "is only in one of the two"
            raise ConfigError(f"{config.plan}: the task {name} {what}; follow the plan or lock a new one")
    for name, value in plan.asked.items():
        if digest_of([asked.get(name)]) != digest_of([value]):
            raise ConfigError(
                f"{config.plan}: was locked with {name}={value}, and this is {name}={asked.get(name)}; "
                "follow the plan or lock a new one"
            )
    return plan.facts()


def note_looks(
    config: EvalConfig,
    subject: ModelIdentity,
    tasks: Sequence[TaskResult],
    records: Mapping[str, Sequence[ItemRecord]],
) -> LookFacts | None:
    """Enter the scores into the ledger, each result once, and say how often the items were looked at.

    None without a ledger. Errors: `ConfigError` for a server that does not say which weights it serves.
    """
    if config.ledger is None:
        return None
    tensors = subject.weights_tensors
    if tensors is None:
        raise ConfigError(
            f"ledger: {subject.name} does not say which weights answered; score the model itself"
        )
    ledger = Ledger(config.ledger)
    known = {(one.tensor_digest, one.task_items_digest, one.score_commitment) for one in ledger.entries()}
    for task in tasks:
        outcomes = outcomes_of(records[task.id])
        if (tensors, task.items, commitment(outcomes)) not in known:
            ledger.record(tensors, task.id, task.items, digest_of(task.prompt), outcomes, config.split)
    return look_facts(ledger, tensors, {task.id: task.items for task in tasks})


def _items(config: EvalConfig, benchmarks: Sequence[Benchmark]) -> dict[str, str]:
    """Task -> digest over the digests of the items that are asked, as in a result."""
    return {
        one.name: digest_of([item.digest for item in list(one.items())[: config.limit]]) for one in benchmarks
    }


def _asked(config: EvalConfig) -> dict[str, Any]:
    given = config.to_dict()
    return {name: given[name] for name in _ASKED}


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
