"""What can be asked of adapter directories: what they are, the same in another layout, how far two are apart.

E experts, r rank, I input, O output features.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from coterie.adapters.attach import Adapter, Factors
from coterie.adapters.extract import extract_adapter
from coterie.adapters.files import (
    AdapterFiles,
    adapter_base,
    check_adapter_base,
    is_adapter,
    layout_by_probes,
    read_adapter,
    write_adapter,
)
from coterie.adapters.peft_layouts import Layout, num_experts_of
from coterie.checkpoints.directory import load_model, locate, read_config
from coterie.config import AdapterConfig, CheckpointError, ModelConfig
from coterie.nn.parameter_groups import parameter_groups
from coterie.nn.transformer import Transformer
from coterie.proof.records import load_probes, save_probes

SAME = 1e-6  # two adapters are one when no weight's change differs by more, relative to the larger change


@dataclass(frozen=True)
class Opened:
    """An adapter with what it means for its base."""

    files: AdapterFiles
    adapter: Adapter
    layout: Layout
    known_by: str
    config: ModelConfig
    base: Path


def open_adapter(path: str | Path, base: str | Path | None = None, layout: Layout | None = None) -> Opened:
    """Read an adapter and find its layout: stamp, names and version, probes, or `layout` where none of them
    says.

    `base` None: the one that the adapter names. Errors: `CheckpointError` where the layout cannot be known.
    """
    files = read_adapter(path)
    directory = locate(base if base is not None else adapter_base(path))
    config = read_config(directory)
    check_adapter_base(files, directory, config)
    known, by = files.layout(layout), "adapter_config.json and names"
    if files.stamp.get("layout") or layout is not None:
        by = "stamp" if files.stamp.get("layout") else "assumed"
    if known is None:
        loaded = load_model(directory)
        known, by = layout_by_probes(loaded.model, files, loaded.tokenizer), "probes"
    return Opened(files, files.adapter(config, known), known, by, config, directory)


def convert_adapter(
    source: str | Path,
    to: Layout,
    out: str | Path,
    base: str | Path | None = None,
    layout: Layout | None = None,
    max_rank: int = 64,
) -> dict[str, Any]:
    """Write `source` in another layout; its probes and what it says of its base go along.

    `source` may be a whole merged checkpoint: its difference from `base` is taken apart into factors of at
    most `max_rank`. Returns what was written. Errors: `CheckpointError`.
    """
    if is_adapter(source):
        opened = open_adapter(source, base, layout)
        adapter, came_from = opened.adapter, str(opened.layout)
        probes = load_probes(opened.files.path)
        add = (lambda target: save_probes(target, probes)) if probes is not None else None
        write_adapter(out, adapter, opened.config, opened.files.settings, opened.base, to, add)
    else:
        if base is None:
            raise CheckpointError(f"{source}: is a whole model; give its base too, to take the difference")
        adapter, config = extract_adapter(source, base, max_rank)
        came_from = "merged"
        rank = max((factors.rank for factors in adapter.factors.values()), default=1)
        write_adapter(out, adapter, config, AdapterConfig(rank=rank, alpha=rank), locate(base), to)
    return {
        "source": str(source),
        "from": came_from,
        "to": to,
        "out": str(out),
        "layers": len(adapter.factors),
    }


def inspect_adapter(
    path: str | Path, base: str | Path | None = None, layout: Layout | None = None
) -> dict[str, Any]:
    """What an adapter is: layout, base, settings, and per group its layers, ranks, size and length of its
    change.
    """
    opened = open_adapter(path, base, layout)
    files, adapter, config = opened.files, opened.adapter, opened.config
    with torch.device("meta"):
        groups = parameter_groups(Transformer(config))
    table: dict[str, dict[str, Any]] = {}
    for name, factors in adapter.factors.items():
        row = table.setdefault(
            groups[f"{name}.weight"], {"layers": 0, "parameters": 0, "ranks": set(), "scales": set()}
        )
        row["layers"] += 1
        row["parameters"] += sum(
            t.numel() for t in (factors.a, factors.b, factors.magnitude) if t is not None
        )
        row["ranks"].add(factors.rank)
        row["scales"].add(round(factors.alpha / factors.rank, 6))
        row["change"] = math.hypot(row.get("change", 0.0), change_norm(factors))
        if factors.chosen is not None:
            row.setdefault("experts", {})[name] = list(factors.chosen)
    rows = [row | {k: sorted(row[k]) for k in ("ranks", "scales")} | {"group": g} for g, row in table.items()]
    return {
        "path": str(path),
        "family": config.family,
        "base": str(opened.base),
        "base_checked": bool((files.stamp.get("base") or {}).get("tensors")),
        "layout": opened.layout,
        "layout_known_by": opened.known_by,
        "rank_rule": files.stamp.get("rank_rule"),
        "dora": any(factors.magnitude is not None for factors in adapter.factors.values()),
        "groups": rows,
        "full": {name: tensor.numel() for name, tensor in adapter.full.items()},
        "probes": load_probes(files.path) is not None,
        "peft_cannot": files.stamp.get("peft_cannot", []),
        "made_by": files.stamp.get("version")
        or f"peft {files.config.get('peft_version') or 'of unknown version'}",
    }


def change_norm(factors: Factors) -> float:
    """Length of the whole change `scale B A` of one layer, without forming it."""
    a, b = factors.a.double(), factors.b.double()
    square = ((b.mT @ b) * (a @ a.mT)).sum()
    return factors.alpha / factors.rank * math.sqrt(max(0.0, float(square)))


def diff_adapters(
    a: str | Path, b: str | Path, base: str | Path | None = None, layout: Layout | None = None
) -> dict[str, Any]:
    """How far two adapters of one base are apart, by what they do to its weights: `same` when at most
    1e-6.
    """
    first, second = (open_adapter(path, base, layout) for path in (a, b))
    if first.config != second.config:
        raise CheckpointError(f"{a} and {b}: belong to models of different shape; give adapters of one base")
    rows = []
    ours, theirs = first.adapter, second.adapter
    for name in [*ours.factors, *(n for n in theirs.factors if n not in ours.factors)]:
        rows.append(
            {"name": name} | _compare(ours.factors.get(name), theirs.factors.get(name), first.config, name)
        )
    for name in sorted({*ours.full, *theirs.full}):
        x, y = ours.full.get(name), theirs.full.get(name)
        if x is None or y is None:
            rows.append({"name": name, "only_in": "second" if x is None else "first", "difference": 1.0})
        else:
            rows.append({"name": name, "difference": _relative(float((x - y).norm()), float(y.norm()))})
    worst = max((row["difference"] for row in rows), default=0.0)
    return {"a": str(a), "b": str(b), "same": worst <= SAME, "worst": worst, "layers": rows}


def _compare(x: Factors | None, y: Factors | None, config: ModelConfig, name: str) -> dict[str, Any]:
    if x is None or y is None:
        only = "second" if x is None else "first"
        return {"only_in": only, "difference": 0.0 if change_norm(x or y) == 0 else 1.0}  # type: ignore[arg-type]
    apart = size = dot = other = 0.0
    for delta_x, delta_y in zip(deltas(x, config, name), deltas(y, config, name), strict=True):
        apart += float((delta_x - delta_y).square().sum())
        size, other = size + float(delta_x.square().sum()), other + float(delta_y.square().sum())
        dot += float((delta_x * delta_y).sum())
    result = {"difference": _relative(math.sqrt(apart), math.sqrt(max(size, other)))}
    if size and other:
        result["cosine"] = dot / math.sqrt(size * other)
    if (x.magnitude is None) != (y.magnitude is None):
        result["difference"] = 1.0
    elif x.magnitude is not None and y.magnitude is not None:
        lengths = _relative(float((x.magnitude - y.magnitude).norm()), float(y.magnitude.norm()))
        result["difference"] = max(result["difference"], lengths)
    return result


def _relative(difference: float, size: float) -> float:
    return difference / size if size else float(difference > 0)


def deltas(factors: Factors, config: ModelConfig, name: str) -> Iterator[Tensor]:
    """The change of each matrix `(O, I)` in turn, in float64; zeros for experts without factors."""
    scale, a, b = factors.alpha / factors.rank, factors.a.double(), factors.b.double()
    if a.dim() == 2:
        yield scale * (b @ a)
        return
    slots = {e: slot for slot, e in enumerate(factors.chosen)} if factors.chosen is not None else None
    for expert in range(num_experts_of(config, name)):
        slot = expert if slots is None else slots.get(expert)
        yield torch.zeros(b.shape[1], a.shape[2]).double() if slot is None else scale * (b[slot] @ a[slot])
