"""The weights that base and adapter must give, computed a second way: by the names of tensors on disk.

A proof by answers cannot judge the reader (`peft.decode`, `put_adapter`), because base with adapter and
the written result both come from it. This computation shares nothing with it but the declared layout of fused
experts: it knows PEFT's formulas and the names on disk, and neither our layers nor our names.

E experts, r rank, I input and O output features.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from coterie.adapters.peft_layouts import Layout, is_swapped
from coterie.checkpoints.checkpoint import Checkpoint
from coterie.config import CheckpointError
from coterie.data.progress import Ticker
from coterie.families import family

_PREFIX = "base_model.model."
_HEAD = "lm_head.weight"
_SINGLE = (("gate_proj", "up_proj", "down_proj"), ("w1", "w3", "w2"))  # names of one expert's matrices
Actual = Callable[[str], Tensor | None]


@dataclass(frozen=True)
class Expected:
    """A tensor on disk as it must be. `error`: how far rounding in float32 may move each number."""

    value: Tensor
    error: Tensor | float


@torch.no_grad()
def check_weights(
    base: Checkpoint,
    tensors: Mapping[str, Tensor],
    data: Mapping[str, Any],
    layout: Layout,
    actual: Actual,
    types: tuple[torch.dtype, torch.dtype],
    where: str,
) -> int:
    """Compare each tensor of a result with what base and adapter must give; returns how many were compared.

    `tensors`, `data`: the adapter's two files. `actual(name)`: the result's tensor of this name on disk, or
    None where it has none. `types`: in which the base is read, and of the result. `where`: the result, for
    messages.
    Errors: `CheckpointError` naming the first tensor that differs.
    """
    held, stored = types
    changed: set[str] = set()
    compared, ticker = 0, Ticker("comparing: tensors")
    for name, want in _all_expected(base, tensors, data, layout, held, changed):
        found = actual(name)
        if want is None:
            continue
        compared += 1
        ticker(compared)
        if found is None:
            if name in changed:
                raise CheckpointError(
                    f"{where}: has no '{name}', which the adapter changes; nothing was written"
                )
            continue
        if found.shape != want.value.shape:
            raise CheckpointError(
                f"{where}: '{name}' has the shape {tuple(found.shape)} where its adapter makes "
                f"{tuple(want.value.shape)} of the base; nothing was written"
            )
        if torch.equal(found.float(), want.value) and bool(found.isfinite().all()):
            continue  # which most are, and no further copies are needed to see it
        slack = torch.finfo(stored).eps * want.value.abs() + want.error
        worst = (found.float() - want.value).abs() - slack
        if bool((worst > 0).any()) or not bool(found.isfinite().all()):
            raise CheckpointError(
                f"{where}: '{name}' is not what its adapter makes of the base, by a second reading of the "
                f"files (by up to {float(worst.max()):.2g} more than rounding); nothing was written"
            )
    return compared


def _all_expected(
    base: Checkpoint,
    tensors: Mapping[str, Tensor],
    data: Mapping[str, Any],
    layout: Layout,
    held: torch.dtype,
    changed: set[str],
) -> Iterator[tuple[str, Expected | None]]:
    """One tensor after the other: those that the adapter changes, whose names go to `changed`, and the rest.

    The rest of a quantised base has no exact value.
    """
    own = _Held(base, held)
    for name, want in _expected(own, tensors, data, layout):
        changed.add(name)
        yield name, want
    for name in () if base.quantised else base.tensors:
        if name not in changed:
            yield name, Expected(base.tensors.read(name).float(), 0.0)


class _Held:
    """The tensors of a base as the merge holds them: of a quantised one in the type that it is read in."""

    def __init__(self, base: Checkpoint, held: torch.dtype) -> None:
        self.config, self._tensors = base.config, base.tensors
        self._dtype = held if base.quantised else None

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def read(self, name: str) -> Tensor:
        tensor = self._tensors.read(name)
        return tensor if self._dtype is None else tensor.to(self._dtype)


def _expected(
    own: _Held, tensors: Mapping[str, Tensor], data: Mapping[str, Any], layout: Layout
) -> Iterator[tuple[str, Expected | None]]:
    """(name on disk, what it must be; None where this computation has no formula)."""
    rest = {key.removeprefix(_PREFIX): tensor for key, tensor in tensors.items()}
    embedding = next((name for name in own if name.endswith("embed_tokens.weight")), "")
    head = ("language_model." if embedding.startswith("language_model.") else "") + _HEAD
    tied = head not in own
    full = {}
    for key, tensor in rest.items():
        if ".lora_" not in key and not key.endswith(".base_layer.weight") and (name := _on_disk(key, own)):
            full[name] = tensor
    yield from ((name, Expected(tensor.float(), 0.0)) for name, tensor in full.items())
    if tied and _HEAD not in rest and "lm_head.lora_A.weight" not in rest and embedding:
        # PEFT ties the two again only where it is asked to; else the head stays what it was.
        new = full.get(embedding) if data.get("ensure_weight_tying") else None
        yield head, Expected((own.read(embedding) if new is None else new).float(), 0.0)
    elif tied and _HEAD in rest:
        yield head, Expected(rest[_HEAD].float(), 0.0)
    for key in rest:
        if not key.endswith(".lora_A.weight"):
            continue
        stem = key.removesuffix(".lora_A.weight")
        if stem.removesuffix(".base_layer").endswith(".experts"):
            yield from _fused(own, rest, stem, data, layout)
        elif (name := f"{stem}.weight") == _HEAD and tied:
            yield head, _linear(own.read(embedding), rest, stem, data)
        elif name := _on_disk(name, own):
            yield name, _linear(own.read(name), rest, stem, data)


def _on_disk(name: str, own: _Held) -> str:
    """The name on disk of what transformers calls `name`; empty where no tensor has it."""
    names = [name]
    for memory, disk in family(own.config.family).memory_names:
        names += [other.replace(memory, disk) for other in names]
    return next((other for other in names if other in own), "")


def _linear(weight_OI: Tensor, rest: Mapping[str, Tensor], stem: str, data: Mapping[str, Any]) -> Expected:
    a_rI, b_Or = rest[f"{stem}.lora_A.weight"].double(), rest[f"{stem}.lora_B.weight"].double()
    scale = _scale(data, [stem, f"{stem}.weight"], a_rI.shape[0])
    value = weight_OI.double() + scale * (b_Or @ a_rI)
    size = weight_OI.double().abs() + abs(scale) * (b_Or.abs() @ a_rI.abs())
    magnitude = rest.get(f"{stem}.lora_magnitude_vector")
    terms = a_rI.shape[0] + 8
    if magnitude is not None:
        factor = magnitude.double()[:, None] / value.norm(dim=1, keepdim=True)
        value, size, terms = value * factor, size * factor.abs(), terms + a_rI.shape[1]
    return Expected(value.float(), (terms * torch.finfo(torch.float32).eps * size).float())


def _scale(data: Mapping[str, Any], paths: list[str], rank: int) -> float:
    """Alpha over the rank of the factors, or over its root."""
    alpha = float(data.get("lora_alpha") or 0.0)
    for pattern, value in (data.get("alpha_pattern") or {}).items():
        if any(re.match(rf"(.*\.)?({pattern})$", path) for path in paths):
            alpha = float(value)
            break
    return alpha / (math.sqrt(rank) if data.get("use_rslora") else rank)


def _fused(
    own: _Held, rest: Mapping[str, Tensor], stem: str, data: Mapping[str, Any], layout: Layout
) -> Iterator[tuple[str, Expected | None]]:
    """Each tensor on disk of one layer's experts. PEFT has no magnitudes of experts, so no formula."""
    experts = stem.removesuffix(".base_layer")
    inner = f"{experts}.base_layer.lora_A.weight" in rest
    targets = data.get("target_parameters") or ["down_proj"]
    both = stem != experts or (not inner and not any(t.endswith("down_proj") for t in targets))
    index = re.search(r"layers\.(\d+)\.", stem)
    if index is None:
        return
    moe = dict(own.config.moe_layers())[int(index[1])]
    num_experts = moe.router.num_experts
    part = "down_proj" if not both else "gate_up_proj" if moe.gated else "up_proj"
    a, b = rest[f"{stem}.lora_A.weight"].double(), rest[f"{stem}.lora_B.weight"].double()
    a_ErI = a.reshape(num_experts, -1, a.shape[1])
    b_EOr = b.reshape(b.shape[0], -1, num_experts).permute(2, 0, 1)
    scale = _scale(data, [f"{experts}.{part}", experts], a_ErI.shape[1])
    change, size = scale * (b_EOr @ a_ErI), abs(scale) * (b_EOr.abs() @ a_ErI.abs())
    if is_swapped(own.config.family, layout):
        change, size = change.mT, size.mT
    slack = (a_ErI.shape[1] + 8) * torch.finfo(torch.float32).eps

    def changed(weight: Tensor, by: Tensor, sized: Tensor) -> Expected | None:
        if f"{stem}.lora_magnitude_vector" in rest:
            return None
        return Expected((weight.double() + by).float(), (slack * (weight.double().abs() + sized)).float())

    if name := _on_disk(f"{experts}.{part}", own):
        if family(own.config.family).fused != "out-in":
            change, size = change.mT, size.mT
        yield name, changed(own.read(name), change, size)
        return
    for expert in range(num_experts):
        for names in _SINGLE:
            chosen = names[2:] if not both else names[:2] if moe.gated else names[1:2]
            rows = change.shape[1] // len(chosen)
            for half, name in enumerate(chosen):
                place = slice(half * rows, (half + 1) * rows)
                if disk := _on_disk(f"{experts}.{expert}.{name}.weight", own):
                    yield disk, changed(own.read(disk), change[expert, place], size[expert, place])
