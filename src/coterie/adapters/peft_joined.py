"""Factors of several of our matrices that are one tensor on disk, and so one linear layer in PEFT.

Queries, keys and values (Phi-3), gate and up (GLM-4), a query and its gate (Qwen3.5): side by side, the
factors are those of one layer whose rank is the sum of theirs, exactly. O rows, r rank, I columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from coterie.adapters.attach import Factors
from coterie.adapters.peft_names import Names
from coterie.config import CheckpointError, ConfigError
from coterie.families import Slot

Columns = dict[str, tuple[int, int]]  # our layer -> its first and last column in the factors of the whole


def join_factors(names: Names, factors: Mapping[str, Factors]) -> tuple[dict[str, Factors], Columns]:
    """The factors, where those of one tensor are one entry under their first layer's name, and their columns.

    Errors: `ConfigError` for DoRA on some of the matrices only: PEFT would need the magnitudes of all rows.
    """
    result, columns = dict(factors), Columns()
    for path, slots in names.joined.items():
        layers = [layer for layer in _layers(slots) if layer in factors]
        if not layers:
            continue
        parts = [result.pop(layer) for layer in layers]
        total, scale = sum(part.rank for part in parts), parts[0].alpha / parts[0].rank
        a_rI = torch.cat([part.a for part in parts])
        b_Or, at = a_rI.new_zeros(_rows(slots), total), 0
        for layer, part in zip(layers, parts, strict=True):
            columns[layer] = (at, at + part.rank)
            _place(slots, layer, part.b * (part.alpha / part.rank / scale), b_Or[:, at : at + part.rank])
            at += part.rank
        magnitude = _joined_magnitude(path, slots, dict(zip(layers, parts, strict=True)))
        result[layers[0]] = Factors(a_rI, b_Or, scale * total, magnitude)
    return result, columns


def split_factors(
    names: Names, path: str, whole: Factors, columns: Mapping[str, Sequence[int]]
) -> dict[str, Factors]:
    """The factors of each of our layers in those of one tensor; `columns`: as `join_factors` gave them.

    Without `columns`, in files of PEFT, every layer has all columns.
    """
    slots, result = names.joined[path], {}
    known = {layer: columns[layer] for layer in _layers(slots) if layer in columns}
    for layer in _layers(slots):
        if known and layer not in known:
            continue
        first, end = known.get(layer, (0, whole.rank))
        part = replace(
            whole,
            a=whole.a[first:end],
            b=_taken(slots, layer, whole.b[:, first:end]),
            alpha=whole.alpha / whole.rank * (end - first),
        )
        if whole.magnitude is not None:
            part = replace(part, magnitude=_taken(slots, layer, whole.magnitude))
        result[layer] = part
    return result


def join_full(names: Names, full: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights trained in full by their key in PEFT; several of ours that are one tensor there become one.

    Errors: `ConfigError` where only some of them are trained.
    """
    joined = {key: slots for key, slots in names.joined_tensors.items() if any(s.name in full for s in slots)}
    inside = {slot.name for slots in joined.values() for slot in slots}
    result = {names.parameters[name]: tensor for name, tensor in full.items() if name not in inside}
    for key, slots in joined.items():
        missing = next((slot.name for slot in slots if slot.name not in full), None)
        if missing is not None or slots[0].within is None:
            raise ConfigError(f"adapter: '{key}' is trained in part, without '{missing}'; train all of it")
        whole = full[slots[0].name].new_empty(slots[0].within.shape)
        for slot in slots:
            slot.part(whole).copy_(slot.view(full[slot.name]))
        result[key] = whole
    return result


def split_full(names: Names, key: str, whole: Tensor, where: str) -> dict[str, Tensor]:
    """Our parameters in one tensor of PEFT. Errors: `CheckpointError` for one of another shape."""
    slots = names.joined_tensors[key]
    wanted = slots[0].within.shape if slots[0].within is not None else ()
    if tuple(whole.shape) != wanted:
        raise CheckpointError(f"{where}: '{key}' has shape {tuple(whole.shape)}; {wanted} was expected")
    return {name: _taken(slots, name.removesuffix(".weight"), whole) for name in _names(slots)}


def _names(slots: Sequence[Slot]) -> list[str]:
    return list(dict.fromkeys(slot.name for slot in slots))


def _layers(slots: Sequence[Slot]) -> list[str]:
    return [name.removesuffix(".weight") for name in _names(slots)]


def _rows(slots: Sequence[Slot]) -> int:
    assert slots[0].within is not None
    return slots[0].within.shape[0]


def _own(slots: Sequence[Slot], layer: str) -> list[Slot]:
    return [slot for slot in slots if slot.name.removesuffix(".weight") == layer]


def _place(slots: Sequence[Slot], layer: str, part: Tensor, whole: Tensor) -> None:
    """Copy the rows of one layer to their places in the whole."""
    for slot in _own(slots, layer):
        slot.part(whole).copy_(slot.view(part))


def _taken(slots: Sequence[Slot], layer: str, whole: Tensor) -> Tensor:
    """The rows of one layer."""
    own = _own(slots, layer)
    rest = whole[:1].numel()
    rows = sum(slot.part(whole).numel() for slot in own) // max(1, rest)
    part = whole.new_empty((rows, *whole.shape[1:]))
    for slot in own:
        slot.view(part).copy_(slot.part(whole))
    return part


def _joined_magnitude(path: str, slots: Sequence[Slot], parts: Mapping[str, Factors]) -> Tensor | None:
    found = {layer: part.magnitude for layer, part in parts.items() if part.magnitude is not None}
    if not found:
        return None
    if set(found) != set(_layers(slots)):
        raise ConfigError(
            f"adapter: '{path}' is one layer in PEFT, and DoRA is on a part of it; train all of it, or none"
        )
    whole = next(iter(found.values())).new_empty(_rows(slots))
    for layer, magnitude in found.items():
        _place(slots, layer, magnitude, whole)
    return whole
