"""Stored tensors under the names of their family, whichever of its published forms the file has.

Three forms occur. Checkpoints of the bare decoder (embedding models) lack the prefix `model.`; text models
cut out of larger ones have a prefix more. transformers 5 holds the experts of a layer as one tensor,
`gate_up_proj` (E, 2F, D), or `up_proj` (E, F, D) without gates, and `down_proj` (E, D, F), and can save them
so. Every expert's matrix is one range of bytes of such a tensor, so the parts become separate entries and are
read like any other tensor.
E experts, F their width, D width of the model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from coterie.checkpoints.quantised.encoded import EncodedTensor
from coterie.checkpoints.tensor_reader import Plain
from coterie.config import CheckpointError

Tensor = Plain | EncodedTensor

_WRAPPER = re.compile(r"^(?:(?:model|language_model|transformer|backbone)\.)+(?=.)")
_EXPERT = re.compile(r"(.+\.experts)\.(\d+)\.(gate_proj|up_proj|down_proj|w[123])\.weight$")
_PARTS = {
    "gate_proj": ("gate_up_proj", 0), "w1": ("gate_up_proj", 0),
    "up_proj": ("gate_up_proj", 1), "w3": ("gate_up_proj", 1),
    "down_proj": ("down_proj", 0), "w2": ("down_proj", 0),
}  # fmt: skip


class FamilyNames:
    """What a family calls its tensors. `names`: on disk. `memory`: (as transformers calls it, as on disk)."""

    def __init__(self, names: Iterable[str], memory: Iterable[tuple[str, str]] = ()) -> None:
        self._own = frozenset(names)
        self._memory = tuple(memory)
        self._by_core: dict[str, str] = {}
        self._fused: dict[str, dict[int, dict[int, str]]] = {}  # core -> expert -> half -> name
        experts = [found for found in map(_EXPERT.match, self._own) if found]
        has_gates = any(_PARTS[found[3]] == ("gate_up_proj", 0) for found in experts)
        parts = _PARTS if has_gates else _PARTS | {"up_proj": ("up_proj", 0)}
        for name in self._own:
            self._by_core[_core(name)] = name
            found = _EXPERT.match(name)
            if found:
                fused, half = parts[found[3]]
                halves = self._fused.setdefault(f"{_core(found[1])}.{fused}", {})
                halves.setdefault(int(found[2]), {})[half] = name

    def canonical(self, stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors under the family's names, fused experts taken apart; unknown names stay as they are.

        Errors: `CheckpointError` for a tensor that is there in two forms, and for fused experts whose number
        or shape does not fit.
        """
        result: dict[str, Tensor] = {}
        for name, tensor in stored.items():
            for own, part in self._parts(name, tensor):
                if own in result:
                    other = result[own].name
                    raise CheckpointError(
                        f"{tensor.file}: '{name}' and '{other}' are the same tensor of the model; "
                        "keep one of them"
                    )
                result[own] = part
        return result

    def _parts(self, name: str, tensor: Tensor) -> list[tuple[str, Tensor]]:
        if name in self._own:
            return [(name, tensor)]
        core = _core(name)
        for theirs, ours in self._memory:
            core = core if core in self._fused or core in self._by_core else core.replace(theirs, ours)
        if core in self._by_core:
            return [(self._by_core[core], tensor)]
        if core in self._fused:
            return _taken_apart(name, tensor, self._fused[core])
        return [(name, tensor)]


def is_bare(name: str) -> bool:
    """Whether a stored name is that of the decoder alone, as embedding models are saved."""
    return _core(name) == name


def _core(name: str) -> str:
    """A name without the prefixes that depend on what was saved around the decoder."""
    return _WRAPPER.sub("", name)


def _taken_apart(
    name: str, tensor: Tensor, experts: Mapping[int, Mapping[int, str]]
) -> list[tuple[str, Tensor]]:
    """The experts of a fused tensor, one entry per matrix."""
    halves = len(experts[0])
    shape = tensor.shape
    if len(shape) != 3 or shape[0] != len(experts) or shape[1] % halves or 0 in shape:
        raise CheckpointError(
            f"{tensor.file}: '{name}' has shape {shape}; the config asks for {len(experts)} experts"
            + (", with as many gate as up rows each" if halves == 2 else "")
        )
    piece = (shape[1] // halves, shape[2])
    return [
        (own, tensor.part(piece, expert * halves + half))
        for expert, named in sorted(experts.items())
        for half, own in sorted(named.items())
    ]
