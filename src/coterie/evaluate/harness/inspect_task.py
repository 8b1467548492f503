"""A task of inspect_ai as a benchmark: its samples as items; its solver and scorer run as they are.

inspect_ai is an extra: nothing of it is imported before a task of it is asked for. Read against 0.3.285.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from coterie.benchmarks.item import Benchmark, BenchmarkItem, ItemVerdict
from coterie.config import ConfigError
from coterie.evaluate.harness.judged import AskedElsewhere
from coterie.evaluate.harness.tasks import seeded
from coterie.evaluate.harness.trouble import installed_version, one_line

INSPECT_PREFIX = "inspect:"
INSPECT = "inspect_ai"


def inspect_version() -> str:
    """The version of inspect_ai. Errors: `ConfigError` where it is not installed."""
    return installed_version("inspect_ai", "inspect-ai", "inspect")


def inspect_benchmarks(
    name: str, given: Mapping[str, Any] | None = None, execute: bool = False
) -> list[InspectBenchmark]:
    """The benchmarks of `inspect:NAME`: a registered task, or those of a Python file (`my_task.py@TASK`).

    `given`: the task's own parameters. `execute`: tasks may run code in a sandbox. The file is run.
    Errors: `ConfigError`, one line: unknown, not usable, or with data that is not on this machine.
    """
    inspect_version()
    name = name.removeprefix(INSPECT_PREFIX)
    found = [
        InspectBenchmark(name, place, dict(given or {})) for place in range(len(load(name, given or {})))
    ]
    for one in found:
        if one.executes and not execute:
            raise ConfigError(f"{one.name}: runs code in a sandbox; allow it with allow_code=true")
    return found


def load(name: str, given: Mapping[str, Any]) -> list[Any]:
    """inspect_ai's `Task` objects, with an id for every sample. Errors: as `inspect_benchmarks`."""
    label = f"{INSPECT_PREFIX}{name}"
    file, _, wanted = name.partition("@")
    path = Path(file).expanduser().absolute()
    if path.suffix == ".py" and not path.is_file():
        raise ConfigError(f"{label}: there is no such file")
    with one_line(label, INSPECT), seeded():
        from inspect_ai._eval.loader import create_file_tasks, load_file_tasks, load_tasks

        tasks: list[Any]
        if path.suffix == ".py":
            load_file_tasks(path)
            tasks = create_file_tasks(path, [wanted] if wanted else None, dict(given))
        else:
            tasks = load_tasks([name], dict(given))
        for task in tasks:
            for place, sample in enumerate(task.dataset, 1):
                sample.id = place if sample.id is None else sample.id
    if not tasks:
        py = path.suffix == ".py"
        where = "the file holds no task (a function with @task)" if py else "inspect_ai has no such task"
        raise ConfigError(f"{label}: {where}")
    return tasks


class InspectBenchmark(AskedElsewhere, Benchmark):
    """One task. An item is a sample; its prompt may be longer, since the task's solver writes it.

    `source`: what was asked for; `place`: of the task among those of the source; `given`: its parameters.
    """

    published = True  # its items are those of others, equal ones included
    cluster_key = "sample"

    def __init__(self, source: str, place: int, given: dict[str, Any]) -> None:
        self.source, self.place, self.given = source, place, given
        self.task = self.fresh()
        short = str(self.task.name).split("/")[-1]
        alone = short in (source, source.split("/")[-1]) or source.endswith(f"@{short}")
        self.name = f"{INSPECT_PREFIX}{source}" if alone else f"{INSPECT_PREFIX}{source}@{short}"
        self.says = f"{short} of inspect_ai"
        self.version = f"{inspect_version()}/{self.task.version}"
        if not self.task.scorer:
            raise ConfigError(f"{self.name}: has no scorer, so its replies have no score")
        self.max_tokens = int(self.task.config.max_tokens or 256)
        sandboxes = [self.task.sandbox, *(sample.sandbox for sample in self.task.dataset)]
        self.executes = any(one is not None for one in sandboxes)

    def fresh(self) -> Any:
        """The task, made anew."""
        return load(self.source, self.given)[self.place]

    @cached_property
    def _items(self) -> list[BenchmarkItem]:
        with one_line(self.name, INSPECT):
            return [self._item(sample) for sample in self.task.dataset]

    def items(self) -> Sequence[BenchmarkItem]:
        """See `Benchmark`."""
        return self._items

    def _item(self, sample: Any) -> BenchmarkItem:
        given = sample.model_dump(mode="json", include={"target", "choices", "metadata", "files", "setup"})
        text = isinstance(sample.input, str)
        turns = (
            [{"role": "user", "content": sample.input}]
            if text
            else [{"role": one.role, "content": one.text} for one in sample.input]
        )
        return BenchmarkItem(
            id=str(sample.id),
            turns=tuple(turns),
            answer=given.pop("target"),
            facts={"sample": json.loads(json.dumps(given)), "given": self.given},
        )

    def verdict(self, sample: Any) -> ItemVerdict:
        """What the task's first scorer says of a finished sample."""
        from inspect_ai.scorer import value_to_float

        if not sample.scores:
            return ItemVerdict(0.0, failed=True, why="the task's scorer gave no score")
        name, score = next(iter(sample.scores.items()))
        if isinstance(score.value, dict | list):
            return ItemVerdict(0.0, failed=True, why=f"{name} gives several values, so no item has a score")
        value = float(value_to_float()(score.value))
        if not 0 <= value <= 1:
            return ItemVerdict(0.0, failed=True, why=f"{name} {value:g} is not between 0 and 1")
        return ItemVerdict(value, extracted=score.answer, unparsed=score.value == "N")
