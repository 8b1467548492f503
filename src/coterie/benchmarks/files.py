"""Items as a file: what a score is made over, whatever program or seed made them.

The first line says which benchmark judges the items, and holds the digest over all of them. Every other line
is an item, the last one the file's canary (`benchmarks.canary`), which is not scored.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from coterie.benchmarks.canary import canary_item
from coterie.benchmarks.item import Benchmark, BenchmarkItem, ItemReply, ItemVerdict, check_items
from coterie.config import ConfigError
from coterie.config.files import write_text
from coterie.contamination.items import WRITTEN as SCHEMA
from coterie.data.records import Problem, read_file
from coterie.evidence.canonical import digest_of
from coterie.sandbox.tools import Tool

_FIELDS = tuple(field.name for field in fields(BenchmarkItem))
_KINDS: dict[str, type | tuple[type, ...]] = {
    "id": str, "turns": list, "choices": list, "cluster": str, "passage": str, "group": str, "tools": list,
    "facts": dict, "source": dict,
}  # fmt: skip


@dataclass(frozen=True)
class ItemFile:
    """What stands in a file of items. `recipe`: of the benchmark that judges them."""

    recipe: dict[str, Any]
    version: str
    items: tuple[BenchmarkItem, ...]
    canary: BenchmarkItem | None = None


def items_digest(items: Sequence[BenchmarkItem]) -> str:
    """Digest over the digests of the items, in order."""
    return digest_of([item.digest for item in items])


def write_items(benchmark: Benchmark, path: str | Path, secret: str = "") -> str:
    """Write a benchmark's items and a canary, whole or not at all; the digest over the items.

    `secret`: of the canary, for a copy that differs from all others; the digest stays the same.

    Errors: `ConfigError` for items that `check_items` refuses; `OSError` when the system refuses.
    """
    items = benchmark.items()
    if not benchmark.published:
        check_items(benchmark.name, items)
    digest = items_digest(items)
    canary = canary_item(digest, secret) if secret or benchmark.canary is None else benchmark.canary
    head = {
        "schema": SCHEMA,
        "benchmark": benchmark.recipe(),
        "version": benchmark.version,
        "published": benchmark.published,
        "count": len(items),
        "items": digest,
        "canary": canary.digest,
    }
    lines = [head, *({name: getattr(item, name) for name in _FIELDS} for item in (*items, canary))]
    write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    return digest


def is_items_file(path: str | Path) -> bool:
    """Whether a file begins as `write_items` begins one."""
    try:
        with Path(path).open("rb") as file:
            return f'"{SCHEMA}"'.encode() in file.read(200)
    except OSError:
        return False


def read_items(path: str | Path) -> tuple[BenchmarkItem, ...]:
    """The items of a file of `write_items`. Errors: as `read_item_file`."""
    return read_item_file(path).items


def read_item_file(path: str | Path) -> ItemFile:
    """What stands in a file of `write_items`.

    Errors: `ConfigError` with file and line for anything that is not as it was written, an item that was
    changed included.
    """
    rows = [_row(path, record) for _, record in read_file(Path(path))] if Path(path).is_file() else []
    if not rows or rows[0].get("schema") != SCHEMA:
        raise ConfigError(f"{path}: is not a file of items; write one with: coterie eval items NAME -o FILE")
    head = rows[0]
    rest = [_item(path, line, row) for line, row in enumerate(rows[1:], 2)]
    canary = rest.pop() if rest and rest[-1].facts.get("canary") else None
    items = tuple(rest)
    if not head.get("published"):
        check_items(str(path), items)
    if items_digest(items) != head.get("items"):
        raise ConfigError(
            f"{path}: its items are not those that were written ({len(items)} of {head.get('count')}); "
            "write it again"
        )
    if (canary.digest if canary is not None else None) != head.get("canary"):
        raise ConfigError(f"{path}: its last line is not the canary that was written; write it again")
    recipe = head.get("benchmark")
    if not isinstance(recipe, dict) or not isinstance(recipe.get("name"), str):
        raise ConfigError(f"{path}:1: does not say which benchmark judges the items")
    return ItemFile(recipe, str(head.get("version")), items, canary)


def _row(path: str | Path, record: Any) -> dict[str, Any]:
    if isinstance(record, Problem):
        raise ConfigError(str(record))
    if not isinstance(record, dict):
        raise ConfigError(f"{path}: holds a {type(record).__name__} where an item was expected")
    return record


def _item(path: str | Path, line: int, row: dict[str, Any]) -> BenchmarkItem:
    for name in ("id", "turns", "answer"):
        if name not in row:
            raise ConfigError(f"{path}:{line}: the item has no '{name}'")
    for name, value in row.items():
        if name not in _FIELDS:
            raise ConfigError(f"{path}:{line}: the item has an unknown field '{name:.60}'")
        if name in _KINDS and not isinstance(value, _KINDS[name]):
            raise ConfigError(f"{path}:{line}: '{name}' is a {type(value).__name__}")
    for name in ("turns", "choices", "tools"):
        if name in row:
            row[name] = tuple(row[name])
    return BenchmarkItem(**row)


class FixedItems(Benchmark):
    """A benchmark with the items of a file in place of those that it would make."""

    def __init__(self, inner: Benchmark, items: Sequence[BenchmarkItem]) -> None:
        self._inner, self._items = inner, tuple(items)
        self.name, self.says, self.version = inner.name, inner.says, inner.version
        self.mode, self.metric, self.cluster_key = inner.mode, inner.metric, inner.cluster_key
        self.executes, self.max_tokens = inner.executes, inner.max_tokens
        self.published = inner.published
        self.guessable, self.exclusive = inner.guessable, inner.exclusive
        self.canary = inner.canary

    def items(self) -> Sequence[BenchmarkItem]:
        """Those of the file."""
        return self._items

    def judge(self, item: BenchmarkItem, reply: ItemReply) -> ItemVerdict:
        """What the benchmark says."""
        return self._inner.judge(item, reply)

    def judge_all(self, items: Sequence[BenchmarkItem], replies: Sequence[ItemReply]) -> list[ItemVerdict]:
        """What the benchmark says."""
        return self._inner.judge_all(items, replies)

    def environment(self, item: BenchmarkItem) -> Sequence[Tool]:
        """The benchmark's tools."""
        return self._inner.environment(item)

    def rewordings(self, item: BenchmarkItem) -> Sequence[str]:
        """The benchmark's wordings."""
        return self._inner.rewordings(item)

    def twins(self, item: BenchmarkItem, count: int) -> Sequence[BenchmarkItem]:
        """The benchmark's twins."""
        return self._inner.twins(item, count)

    def reordered(self, item: BenchmarkItem, order: Sequence[int]) -> BenchmarkItem | None:
        """The benchmark's item with its choices in another order."""
        return self._inner.reordered(item, order)

    def oracle(self, item: BenchmarkItem) -> ItemReply | None:
        """The benchmark's right reply."""
        return self._inner.oracle(item)

    def candidates(self, item: BenchmarkItem) -> Sequence[str]:
        """The benchmark's guesses."""
        return self._inner.candidates(item)

    def extras(self, items: Sequence[BenchmarkItem], verdicts: Sequence[ItemVerdict]) -> dict[str, float]:
        """The benchmark's further numbers."""
        return self._inner.extras(items, verdicts)

    def recipe(self) -> dict[str, Any]:
        """The benchmark's."""
        return self._inner.recipe()
