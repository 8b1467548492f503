"""Operations on adapter directories: describe one, write it in another layout, compare two.

The results are records; the command line prints them. E experts, r rank, I input, O output features.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

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
from coterie.checkpoints.checkpoint import Checkpoint
from coterie.config import AdapterConfig, CheckpointError, ModelConfig
from coterie.nn.parameter_groups import parameter_groups
from coterie.nn.transformer import Transformer

SAME = 1e-6  # two adapters are one when no weight's change differs by more, relative to the larger change


@dataclass(frozen=True)
class ResolvedAdapter:
    """An opened adapter in the terms of its base's layers. `known_by`: what stated the layout."""

    files: AdapterFiles
    adapter: Adapter
    layout: Layout
    known_by: str
    base: Checkpoint


def resolve_adapter(
    path: str | Path | AdapterFiles,
    base: str | Path | Checkpoint | None = None,
    layout: Layout | None = None,
) -> ResolvedAdapter:
    """Open an adapter and find its layout: by stamp, names and version, or probes; else `layout`.

    `base` None: the one that the adapter names. Errors: `CheckpointError` where the layout cannot be known.
    """
    files = read_adapter(path)
    checkpoint = Checkpoint.open(base if base is not None else adapter_base(files.path))
    check_adapter_base(files, checkpoint)
    known, by = files.layout(layout), "adapter_config.json and names"
    if files.stamp.get("layout") or layout is not None:
        by = "stamp" if files.stamp.get("layout") else "assumed"
    if known is None:
        known = layout_by_probes(checkpoint.load().model, files, checkpoint.tokenizer)
        by = "probes"
    return ResolvedAdapter(files, files.adapter(checkpoint.config, known), known, by, checkpoint)


@dataclass(frozen=True)
class AdapterConversion:
    """What `convert_adapter` wrote.

    `layers`: how many layers are adapted. `came_from`: the layout that was read (or "merged"). `to`: the one
    that was written.
    """

    source: str
    came_from: str
    to: Layout
    out: str
    layers: int

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        facts = asdict(self)
        return {"from" if key == "came_from" else key: value for key, value in facts.items()}


def convert_adapter(
    source: str | Path | AdapterFiles,
    to: Layout,
    out: str | Path,
    base: str | Path | Checkpoint | None = None,
    layout: Layout | None = None,
    max_rank: int = 64,
) -> AdapterConversion:
    """Write `source` in another layout; its probes and the stamp of its base are kept.

    `source` may be a whole merged checkpoint: its difference from `base` is decomposed into factors of at
    most `max_rank`. Errors: `CheckpointError`.
    """
    if isinstance(source, AdapterFiles) or is_adapter(source):
        opened = resolve_adapter(source, base, layout)
        files, adapter, came_from = opened.files, opened.adapter, str(opened.layout)
        config = opened.base.config
        write_adapter(out, adapter, config, files.settings, opened.base, to, files.probes)
        named = str(files.path)
    else:
        if base is None:
            raise CheckpointError(f"{source}: is a whole model; give its base too, to take the difference")
        checkpoint = Checkpoint.open(base)
        adapter, config = extract_adapter(Checkpoint.open(source), checkpoint, max_rank)
        rank = max((factors.rank for factors in adapter.factors.values()), default=1)
        write_adapter(out, adapter, config, AdapterConfig(rank=rank, alpha=rank), checkpoint, to)
        came_from, named = "merged", str(source)
    return AdapterConversion(named, came_from, to, str(out), len(adapter.factors))


@dataclass
class AdaptedGroup:
    """The adapted layers of one parameter group.

    `change`: length of their whole change, the root of the sum of squares. `scales`: alpha / rank. `experts`:
    layer -> experts with factors, for layers where only some have them.
    """

    group: str
    layers: int = 0
    parameters: int = 0
    ranks: list[int] = field(default_factory=list)
    scales: list[float] = field(default_factory=list)
    change: float = 0.0
    experts: dict[str, list[int]] = field(default_factory=dict)

    def add(self, name: str, factors: Factors) -> None:
        """Count one layer."""
        tensors = (factors.a, factors.b, factors.magnitude)
        self.layers += 1
        self.parameters += sum(tensor.numel() for tensor in tensors if tensor is not None)
        self.ranks = sorted({*self.ranks, factors.rank})
        self.scales = sorted({*self.scales, round(factors.alpha / factors.rank, 6)})
        self.change = math.hypot(self.change, change_norm(factors))
        if factors.chosen is not None:
            self.experts[name] = list(factors.chosen)


@dataclass(frozen=True)
class AdapterFacts:
    """The description of an adapter.

    `full`: weights trained in full, with their sizes. `peft_cannot`: the parts for which PEFT refuses it.
    """

    path: str
    family: str
    base: str
    base_checked: bool
    layout: Layout
    layout_known_by: str
    rank_rule: str | None
    dora: bool
    groups: list[AdaptedGroup]
    full: dict[str, int]
    probes: bool
    peft_cannot: list[str]
    made_by: str

    def to_dict(self) -> dict[str, Any]:
        """JSON types; `experts` is left out of groups in which all experts have factors."""
        groups = [{k: v for k, v in asdict(group).items() if k != "experts" or v} for group in self.groups]
        return asdict(self) | {"groups": groups}


def inspect_adapter(
    path: str | Path | AdapterFiles,
    base: str | Path | Checkpoint | None = None,
    layout: Layout | None = None,
) -> AdapterFacts:
    """Describe an adapter: layout, base, settings, and per group its layers, ranks, size and change.

    Errors: `CheckpointError` for a damaged adapter, one of another base, or one whose layout is unknown.
    """
    opened = resolve_adapter(path, base, layout)
    files, adapter, config = opened.files, opened.adapter, opened.base.config
    with torch.device("meta"):
        groups = parameter_groups(Transformer(config))
    table: dict[str, AdaptedGroup] = {}
    for name, factors in adapter.factors.items():
        group = groups[f"{name}.weight"]
        table.setdefault(group, AdaptedGroup(group)).add(name, factors)
    return AdapterFacts(
        path=str(files.path),
        family=config.family,
        base=str(opened.base.path),
        base_checked=bool((files.stamp.get("base") or {}).get("tensors")),
        layout=opened.layout,
        layout_known_by=opened.known_by,
        rank_rule=files.stamp.get("rank_rule"),
        dora=any(factors.magnitude is not None for factors in adapter.factors.values()),
        groups=list(table.values()),
        full={name: tensor.numel() for name, tensor in adapter.full.items()},
        probes=files.probes is not None,
        peft_cannot=list(files.stamp.get("peft_cannot") or []),
        made_by=files.stamp.get("version")
        or f"peft {files.config.get('peft_version') or 'of unknown version'}",
    )


def change_norm(factors: Factors) -> float:
    """Length of the whole change `scale B A` of one layer, without forming it."""
    a, b = factors.a.double(), factors.b.double()
    # |B A|^2 = trace(A^T B^T B A) = sum((B^T B) * (A A^T)), both (r, r)
    square = ((b.mT @ b) * (a @ a.mT)).sum()
    return factors.alpha / factors.rank * math.sqrt(max(0.0, float(square)))


@dataclass(frozen=True)
class LayerDifference:
    """How far two changes of one weight are apart, relative to the larger. `only_in`: where one lacks it."""

    name: str
    difference: float
    cosine: float | None = None
    only_in: Literal["first", "second"] | None = None

    @property
    def differs(self) -> bool:
        """Whether the changes differ by more than rounding."""
        return self.difference > SAME

    def to_dict(self) -> dict[str, Any]:
        """JSON types, without what does not apply."""
        return {key: value for key, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class AdapterDifference:
    """How far two adapters are apart. `same`: no weight differs by more than `SAME`; `worst`: the largest."""

    a: str
    b: str
    same: bool
    worst: float
    layers: list[LayerDifference]

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        return asdict(self) | {"layers": [layer.to_dict() for layer in self.layers]}


def diff_adapters(
    a: str | Path | AdapterFiles,
    b: str | Path | AdapterFiles,
    base: str | Path | Checkpoint | None = None,
    layout: Layout | None = None,
) -> AdapterDifference:
    """Compare two adapters of one base by what they do to its weights.

    Errors: `CheckpointError` for adapters of models of different shape.
    """
    origin = Checkpoint.open(base) if base is not None else None
    first, second = (resolve_adapter(path, origin, layout) for path in (a, b))
    config, paths = first.base.config, (str(first.files.path), str(second.files.path))
    if config != second.base.config:
        raise CheckpointError(
            f"{paths[0]} and {paths[1]}: belong to models of different shape; give adapters of one base"
        )
    ours, theirs = first.adapter, second.adapter
    rows = [
        _compare(name, ours.factors.get(name), theirs.factors.get(name), config)
        for name in [*ours.factors, *(name for name in theirs.factors if name not in ours.factors)]
    ]
    for name in sorted({*ours.full, *theirs.full}):
        x, y = ours.full.get(name), theirs.full.get(name)
        if x is None or y is None:
            rows.append(LayerDifference(name, 1.0, only_in="second" if x is None else "first"))
        else:
            rows.append(LayerDifference(name, _relative(float((x - y).norm()), float(y.norm()))))
    worst = max((row.difference for row in rows), default=0.0)
    return AdapterDifference(*paths, same=worst <= SAME, worst=worst, layers=rows)


def _compare(name: str, x: Factors | None, y: Factors | None, config: ModelConfig) -> LayerDifference:
    if x is None or y is None:
        only = x if x is not None else y
        assert only is not None
        apart = 0.0 if change_norm(only) == 0 else 1.0
        return LayerDifference(name, apart, only_in="second" if x is None else "first")
    apart = size = dot = other = 0.0
    for delta_x, delta_y in zip(deltas(x, config, name), deltas(y, config, name), strict=True):
        apart += float((delta_x - delta_y).square().sum())
        size, other = size + float(delta_x.square().sum()), other + float(delta_y.square().sum())
        dot += float((delta_x * delta_y).sum())
    difference = _relative(math.sqrt(apart), math.sqrt(max(size, other)))
    if (x.magnitude is None) != (y.magnitude is None):
        difference = 1.0
    elif x.magnitude is not None and y.magnitude is not None:
        lengths = _relative(float((x.magnitude - y.magnitude).norm()), float(y.magnitude.norm()))
        difference = max(difference, lengths)
    return LayerDifference(name, difference, dot / math.sqrt(size * other) if size and other else None)


def _relative(difference: float, size: float) -> float:
    return difference / size if size else float(difference > 0)


def deltas(factors: Factors, config: ModelConfig, name: str) -> Iterator[Tensor]:
    """The change of each matrix `(O, I)` of a layer in turn, float64; zeros for experts without factors."""
    scale, a, b = factors.alpha / factors.rank, factors.a.double(), factors.b.double()
    if a.dim() == 2:
        yield scale * (b @ a)
        return
    slots = {e: slot for slot, e in enumerate(factors.chosen)} if factors.chosen is not None else None
    for expert in range(num_experts_of(config, name)):
        slot = expert if slots is None else slots.get(expert)
        yield torch.zeros(b.shape[1], a.shape[2]).double() if slot is None else scale * (b[slot] @ a[slot])
