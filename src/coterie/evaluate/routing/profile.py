"""Which experts a set of texts uses, and the selection of those that matter for it (ESFT, arXiv 2407.01906).

Scores are per layer, over its experts. The gate score of an expert is the mean of its gate weight over
tokens; its token score is the share of the layer's assignments that went to it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import numpy as np
from pydantic import model_validator

from coterie.config import ConfigError, ExpertSelection, Settings
from coterie.config.files import read_json, write_json
from coterie.data.heldout import HeldoutDocument
from coterie.evaluate.routing.trace import require_experts, trace
from coterie.nn.transformer import Transformer

Method = Literal["esft-gate", "esft-token", "hot", "random"]


class Profile(Settings):
    """What `coterie profile` found, by layer.

    `counts`: for each expert, the tokens that chose it. `gate_mass`: the sum of the gate weights they gave
    it.
    """

    format: int = 1
    model: str
    data: tuple[str, ...]
    tokens: int
    counts: dict[int, tuple[int, ...]]
    gate_mass: dict[int, tuple[float, ...]]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.format != 1:
            raise ValueError(f"format {self.format} is not known to this version")
        if {k: len(v) for k, v in self.counts.items()} != {k: len(v) for k, v in self.gate_mass.items()}:
            raise ValueError("counts and gate_mass name different experts")
        return self

    @classmethod
    def from_file(cls, path: str | Path) -> Self:
        """Read a JSON file.

        Errors: `ConfigError`, one line.
        """
        return cls.from_dict(read_json(path, "make it with coterie profile"), str(path))

    def to_file(self, path: str | Path) -> None:
        """Write the JSON file (temporary name, then rename)."""
        write_json(path, self.to_dict(), indent=None)


def profile(model: Transformer, documents: Sequence[HeldoutDocument], name: str = "model") -> Profile:
    """The profile of `model` over all documents.

    Errors: `ConfigError` for a dense model.
    """
    sizes = require_experts(model, name)
    counts = {layer: np.zeros(size, dtype=np.int64) for layer, size in sizes.items()}
    mass = {layer: np.zeros(size) for layer, size in sizes.items()}
    tokens = 0
    for (text,) in trace([model], documents):
        tokens += len(text.ids_T)
        for layer, routing in text.routing.items():
            ids = routing.ids_TK.flatten().cpu().numpy()
            weights = routing.weights_TK.flatten().double().cpu().numpy()
            counts[layer] += np.bincount(ids, minlength=sizes[layer])
            mass[layer] += np.bincount(ids, weights, minlength=sizes[layer])
    return Profile(
        model=name,
        data=tuple(dict.fromkeys(document.slice for document in documents)),
        tokens=tokens,
        counts={layer: tuple(map(int, values)) for layer, values in counts.items()},
        gate_mass={layer: tuple(map(float, values)) for layer, values in mass.items()},
    )


def select(
    found: Profile, method: Method, p: float | None = None, top: float | None = None, seed: int = 0
) -> ExpertSelection:
    """Select experts layer by layer.

    `esft-gate` and `esft-token`: the fewest experts, best first, whose scores sum to the share `p` of the
    layer's. `hot`: the share `top` of a layer's experts (rounded up) with most tokens. `random`: equally
    many, drawn with `seed`.
    Errors: `ConfigError` for a share that is missing, does not belong to the method, or is outside (0, 1].
    """
    if method not in ("esft-gate", "esft-token", "hot", "random"):
        raise ConfigError(f"select: unknown method '{method}'; choose esft-gate, esft-token, hot or random")
    wanted, other, share = ("p", top, p) if method.startswith("esft") else ("top", p, top)
    if share is None or other is not None or not 0 < share <= 1:
        raise ConfigError(
            f"select: {method} takes --{wanted}, a share above 0 and up to 1, and no other share"
        )
    scores = found.gate_mass if method == "esft-gate" else found.counts
    draw = random.Random(seed)
    experts = {}
    for layer, values in sorted(scores.items()):
        if method == "random":
            chosen = draw.sample(range(len(values)), math.ceil(share * len(values)))
        elif method == "hot":
            chosen = _best_first(values)[: math.ceil(share * len(values))]
        else:
            chosen = _until(values, share)
        experts[layer] = tuple(chosen)
    return ExpertSelection(experts=experts)


def _best_first(scores: Sequence[float]) -> list[int]:
    return sorted(range(len(scores)), key=lambda expert: (-scores[expert], expert))


def _until(scores: Sequence[float], share: float) -> list[int]:
    """The fewest experts whose scores reach `share` of the sum."""
    target, reached, chosen = share * sum(scores), 0.0, []
    for expert in _best_first(scores):
        chosen.append(expert)
        reached += scores[expert]
        if reached >= target * (1 - 1e-12):
            break
    return chosen


@dataclass(frozen=True)
class SelectionCover:
    """What a selection covers of a profile: its experts, and its shares of assignments and gate weight."""

    experts: int
    of: int
    token_share: float
    gate_share: float


def describe_selection(selection: ExpertSelection, found: Profile) -> SelectionCover:
    """What a selection covers of its profile: number of experts, share of assignments and of gate weight."""
    layers = selection.experts
    covered = {
        key: sum(sum(values[layer][e] for e in chosen) for layer, chosen in layers.items())
        / max(1e-30, sum(sum(values[layer]) for layer in layers))
        for key, values in (("tokens", found.counts), ("gate", found.gate_mass))
    }
    total = sum(map(len, found.counts.values()))
    return SelectionCover(selection.count, total, covered["tokens"], covered["gate"])
