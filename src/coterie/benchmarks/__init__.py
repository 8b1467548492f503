"""Test items whose answers a program can check, and how a reply to one is judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from coterie.benchmarks.arithmetic import Arithmetic
from coterie.benchmarks.bfcl import Bfcl
from coterie.benchmarks.confidence import Abstention, Calibration
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
from coterie.benchmarks.humaneval import HumanEval
from coterie.benchmarks.instructions import Instructions
from coterie.benchmarks.item import Benchmark, BenchmarkItem, ItemReply, ItemVerdict, check_items
from coterie.benchmarks.long_context import LongContext
from coterie.benchmarks.own import PREFIX, OwnBenchmark, OwnSettings, read_own
from coterie.benchmarks.published import Gsm8k, IfEval, Mmlu, PublishedBenchmark
from coterie.benchmarks.safety.battery import SAFETY
from coterie.benchmarks.structured import Structured
from coterie.benchmarks.texts import Multilingual, Texts
from coterie.benchmarks.tool_calls import ToolCalls
from coterie.benchmarks.word_problems import WordProblems
from coterie.config import ConfigError, Settings, suggest
from coterie.tasks import TASKS

__all__ = [
    "BENCHMARKS",
    "PARTS",
    "PUBLISHED",
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


OWN_FILES = (".yaml", ".yml", ".jsonl", ".json", ".parquet")


@dataclass(frozen=True)
class KnownBenchmark:
    """A benchmark by name. `make`: takes settings of the type `settings`."""

    says: str
    settings: type[Settings]
    make: Callable[[Any], Benchmark]


_GENERATED: tuple[type[GeneratedBenchmark], ...] = (
    Arithmetic,
    WordProblems,
    Texts,
    Multilingual,
    FactChoices,
    LongContext,
    Instructions,
    ToolCalls,
    Structured,
    Calibration,
    Abstention,
)
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
# What is read from a user's copy: name -> what takes its path.
PUBLISHED: dict[str, type[PublishedBenchmark]] = {
    kind.name: kind for kind in (Gsm8k, Mmlu, HumanEval, IfEval, Bfcl)
}


def load_benchmark(name: str, /, **settings: Any) -> Benchmark:
    """The benchmark of a name, or of a file.

    `name`: one of `BENCHMARKS` or `PARTS`, a file of `write_items`, a user's YAML or JSONL file, or a name of
    `PUBLISHED` with the user's copy, `gsm8k:PATH`. `settings`: of the benchmark, such as `n` and `seed`.
    Errors: `ConfigError` for an unknown name with the closest known one, for an unknown setting, and for a
    file that cannot be used.
    """
    entry = BENCHMARKS.get(name) or PARTS.get(name)
    if entry is not None:
        return entry.make(entry.settings.from_dict(settings, where=f"benchmark {name}"))
    if is_items_file(name):
        return _of_file(name, settings)
    kind, colon, path = name.partition(":")
    if colon and kind in PUBLISHED:
        published = PUBLISHED[kind]
        return published(path, published.settings_type.from_dict(settings, where=f"benchmark {name}"))
    if name in PUBLISHED:
        raise ConfigError(f"benchmark {name}: name your copy of it, as {name}:PATH; none comes with coterie")
    if name.endswith(OWN_FILES):
        _no_settings(name, settings)
        return read_own(Path(name))
    known = [*BENCHMARKS, *PARTS]
    raise ConfigError(
        f"benchmark '{name}' does not exist{suggest(name, known)}; choose {', '.join(known)}, or name a file"
    )


def _no_settings(path: str, settings: Mapping[str, Any]) -> None:
    if settings:
        raise ConfigError(f"{path}: its items are fixed; leave out {', '.join(settings)}")


def _of_file(path: str, settings: Mapping[str, Any]) -> Benchmark:
    _no_settings(path, settings)
    file = read_item_file(path)
    if file.recipe["name"].startswith(PREFIX):
        own = OwnSettings.from_dict(file.recipe.get("settings", {}), where=f"{path}:1")
        benchmark = OwnBenchmark(own, Path(path).parent, file.items)
        benchmark.canary = file.canary
        return benchmark
    inner = load_benchmark(file.recipe["name"], **file.recipe.get("settings", {}))
    if inner.version != file.version:
        raise ConfigError(
            f"{path}: was written for version {file.version} of {inner.name}, and this is version "
            f"{inner.version}; write it again"
        )
    inner.canary = file.canary
    return FixedItems(inner, file.items)
