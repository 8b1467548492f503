"""The operations by name: how each one is called and what it reports in addition to its model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from coterie.nn.transformer import Transformer
from coterie.surgery.common import Sequences
from coterie.surgery.densify import densify
from coterie.surgery.grow import add_experts, swap_expert
from coterie.surgery.shrink import merge_experts, prune
from coterie.surgery.upcycle import upcycle

Details = dict[str, Any]
OwnSettings = Mapping[str, Any]


def _upcycle(model: Transformer, settings: OwnSettings, _: Sequences) -> tuple[Transformer, Details]:
    return upcycle(model, **settings), {}


def _prune(model: Transformer, settings: OwnSettings, sequences: Sequences) -> tuple[Transformer, Details]:
    result, kept = prune(model, sequences=sequences, **settings)
    return result, {"kept": {str(layer): experts for layer, experts in kept.items()}}


def _merge(model: Transformer, settings: OwnSettings, sequences: Sequences) -> tuple[Transformer, Details]:
    result, clusters = merge_experts(model, sequences=sequences, **settings)
    return result, {"clusters": {str(layer): found for layer, found in clusters.items()}}


def _densify(model: Transformer, settings: OwnSettings, sequences: Sequences) -> tuple[Transformer, Details]:
    return densify(model, sequences, **settings), {}


def _add(model: Transformer, settings: OwnSettings, sequences: Sequences) -> tuple[Transformer, Details]:
    return add_experts(model, sequences, **settings), {}


def _swap(model: Transformer, settings: OwnSettings, _: Sequences) -> tuple[Transformer, Details]:
    return swap_expert(model, **settings), {}


Operate = Callable[[Transformer, OwnSettings, Sequences], tuple[Transformer, Details]]

# Each takes (model, its own settings, token ids to analyse) and returns (new model, details of the receipt).
# `swap-expert` expects the other model in memory as its setting `other`.
OPERATIONS: dict[str, Operate] = {
    "upcycle": _upcycle,
    "prune": _prune,
    "merge-experts": _merge,
    "densify": _densify,
    "add-expert": _add,
    "swap-expert": _swap,
}
