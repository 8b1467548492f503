"""Test items whose answers a program can check, and how a reply to one is judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from coterie.benchmarks.arithmetic import Arithmetic
from coterie.benchmarks.facts import FactChoices
from coterie.benchmarks.files import (
    FixedItems,
    is_items_file,
    items_digest,
    read_item_file,
    read_items,
    write_items,
)
from coterie.benchmarks.from_tasks import TaskItemSettings, task_benchmark
from coterie.benchmarks.generated import GeneratedBenchmark
from coterie.benchmarks.item import Benchmark, BenchmarkItem, ItemReply, ItemVerdict, check_items
from coterie.benchmarks.safety.battery import SAFETY
from coterie.config import ConfigError, Settings, suggest
from coterie.tasks import TASKS

__all__ = [
    "BENCHMARKS",
    "PARTS",
    "SUITES",
    "Benchmark",
    "BenchmarkItem",
    "ItemReply",
    "ItemVerdict",
    "KnownBenchmark",
    "check_items",
    "items_digest",
    "load_benchmark",
    "read_items",
    "write_items",
]


@dataclass(frozen=True)
class KnownBenchmark:
    """A benchmark by name. `make`: takes settings of the type `settings`."""

    says: str
    settings: type[Settings]
    make: Callable[[Any], Benchmark]


_GENERATED: tuple[type[GeneratedBenchmark], ...] = (Arithmetic, FactChoices)
BENCHMARKS: dict[str, KnownBenchmark] = {
    **{kind.name: KnownBenchmark(kind.says, kind.settings_type, kind) for kind in _GENERATED},
    **{
        name: KnownBenchmark(family.says, TaskItemSettings, partial(task_benchmark, name))
        for name, family in TASKS.items()
    },
}
# Parts of suites are loaded by name too. Their replies have no answer that could be guessed.
PARTS: dict[str, KnownBenchmark] = {
    name: KnownBenchmark(kind.says, kind.settings_type, kind) for name, kind in SAFETY.items()
}
SUITES: dict[str, tuple[str, ...]] = {"safety": tuple(SAFETY)}


def load_benchmark(name: str, **settings: Any) -> Benchmark:
    """The benchmark of a name, or of a file.

    `name`: one of `BENCHMARKS` or `PARTS`, or a file of `write_items`. `settings`: of that benchmark,
    such as `n` and `seed`.
    Errors: `ConfigError` for an unknown name with the closest known one, for an unknown setting, and for a
    file that cannot be used.
    """
    entry = BENCHMARKS.get(name) or PARTS.get(name)
    if entry is not None:
        return entry.make(entry.settings.from_dict(settings, where=f"benchmark {name}"))
    if is_items_file(name):
        return _of_file(name, settings)
    known = [*BENCHMARKS, *PARTS]
    raise ConfigError(f"benchmark '{name}' does not exist{suggest(name, known)}; choose {', '.join(known)}")


def _of_file(path: str, settings: Mapping[str, Any]) -> Benchmark:
    if settings:
        raise ConfigError(f"{path}: its items are fixed; leave out {', '.join(settings)}")
    file = read_item_file(path)
    inner = load_benchmark(file.recipe["name"], **file.recipe.get("settings", {}))
    if inner.version != file.version:
        raise ConfigError(
            f"{path}: was written for version {file.version} of {inner.name}, and this is version "
            f"{inner.version}; write it again"
        )
    return FixedItems(inner, file.items)
