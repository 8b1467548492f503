"""The operations by name: how each one is called with its own settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from coterie.nn.transformer import Transformer
from coterie.surgery.common import LayerwiseResult, Sequences
from coterie.surgery.densify import densifying
from coterie.surgery.grow import adding_experts, swapping
from coterie.surgery.shrink import expert_merging, pruning
from coterie.surgery.upcycle import upcycling

OwnSettings = Mapping[str, Any]
Operate = Callable[[Transformer, OwnSettings, Sequences], LayerwiseResult]

# Each takes (model, its own settings, token ids to analyse) and makes its result layer by layer.
# `swap-expert` expects the layer that the expert comes from as its setting `source`.
OPERATIONS: dict[str, Operate] = {
    "upcycle": lambda model, settings, _: upcycling(model, **settings),
    "prune": lambda model, settings, sequences: pruning(model, sequences=sequences, **settings),
    "merge-experts": lambda model, settings, sequences: expert_merging(
        model, sequences=sequences, **settings
    ),
    "densify": lambda model, settings, sequences: densifying(model, sequences, **settings),
    "add-expert": lambda model, settings, sequences: adding_experts(model, sequences, **settings),
    "swap-expert": lambda model, settings, _: swapping(model, **settings),
}
